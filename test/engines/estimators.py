"""Trains one small model of each estimator and saves it with MLflow.

Arguments: the folder to write to, and the names wanted, or none for all. A
name is a folder below it. What cannot be imported here is passed over.
"""

import inspect
import os
import sys
import warnings

warnings.simplefilter("ignore")
os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite://")

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature

RNG = np.random.default_rng(11)
N = 400
X = pd.DataFrame({
    "age": RNG.uniform(18, 90, N).round(1),
    "income": RNG.normal(40, 12, N),
    "visits": RNG.poisson(3, N).astype("float64"),
    "score": RNG.normal(size=N),
})
SCORE = X["age"] / 30 + X["income"] / 20 - X["visits"] + 2 * X["score"] + RNG.normal(size=N) * 0.3
Y = {"two classes": (SCORE > 1).astype("int64"), "three classes": pd.cut(SCORE, [-99, 0, 3, 99], labels=False), "number": SCORE}

MIXED = X.copy()
MIXED.loc[RNG.random(N) < 0.1, "age"] = np.nan
MIXED["city"] = RNG.choice(["Oslo", "Rome", "Łódź", "Paris"], N)
MIXED["plan"] = RNG.choice(["basic", "gold"], N)
SHORT = pd.DataFrame({"text": [" ".join(RNG.choice("the good bad food was very fine awful day night never again".split(), 6)) for _ in range(N)]})


def save(path, model, x, **kw):
    answer = model.predict(x[:5])
    if "skops_trusted_types" in inspect.signature(mlflow.sklearn.save_model).parameters:
        kw["serialization_format"] = "cloudpickle"
    mlflow.sklearn.save_model(model, path, signature=infer_signature(x, answer), input_example=x[:5], pip_requirements=[], **kw)


def estimators():
    """{name: function of a path}"""
    out = {}

    def add(name, make, target="two classes", x=X, **kw):
        out[name] = lambda path: save(path, make().fit(x, Y[target]), x, **kw)

    from sklearn.compose import ColumnTransformer
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
    from sklearn.ensemble import (AdaBoostClassifier, BaggingClassifier, ExtraTreesClassifier, ExtraTreesRegressor,
        GradientBoostingClassifier, GradientBoostingRegressor, HistGradientBoostingClassifier,
        HistGradientBoostingRegressor, IsolationForest, RandomForestClassifier, RandomForestRegressor, StackingClassifier, VotingClassifier)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import (ElasticNet, Lasso, LinearRegression, LogisticRegression, PoissonRegressor, Ridge,
        RidgeClassifier, SGDClassifier)
    from sklearn.multioutput import MultiOutputRegressor
    from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import (KBinsDiscretizer, MinMaxScaler, OneHotEncoder, OrdinalEncoder, PolynomialFeatures,
        PowerTransformer, QuantileTransformer, RobustScaler, StandardScaler)
    from sklearn.cluster import KMeans
    from sklearn.svm import SVC, SVR, LinearSVC
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    add("LogisticRegression", lambda: LogisticRegression(max_iter=2000))
    add("LogisticRegression, 3 classes", lambda: LogisticRegression(max_iter=2000), "three classes")
    add("LogisticRegression, predict_proba", lambda: LogisticRegression(max_iter=2000), pyfunc_predict_fn="predict_proba")
    add("LinearRegression", LinearRegression, "number")
    add("Ridge", Ridge, "number")
    add("Lasso", Lasso, "number")
    add("ElasticNet", ElasticNet, "number")
    add("PoissonRegressor", lambda: make_pipeline(StandardScaler(), PoissonRegressor()), "two classes")
    add("RidgeClassifier", RidgeClassifier)
    add("SGDClassifier", lambda: make_pipeline(StandardScaler(), SGDClassifier()))
    add("DecisionTreeClassifier", DecisionTreeClassifier)
    add("DecisionTreeRegressor", DecisionTreeRegressor, "number")
    add("RandomForestClassifier", lambda: RandomForestClassifier(100))
    add("RandomForestClassifier, predict_proba", lambda: RandomForestClassifier(100), pyfunc_predict_fn="predict_proba")
    add("RandomForestRegressor", lambda: RandomForestRegressor(100), "number")
    add("ExtraTreesClassifier", lambda: ExtraTreesClassifier(50))
    add("ExtraTreesRegressor", lambda: ExtraTreesRegressor(50), "number")
    add("GradientBoostingClassifier", GradientBoostingClassifier)
    add("GradientBoostingRegressor", GradientBoostingRegressor, "number")
    add("HistGradientBoostingClassifier", HistGradientBoostingClassifier)
    add("HistGradientBoostingRegressor", HistGradientBoostingRegressor, "number")
    add("AdaBoostClassifier", AdaBoostClassifier)
    add("BaggingClassifier", BaggingClassifier)
    add("IsolationForest", IsolationForest)
    add("VotingClassifier", lambda: VotingClassifier([("a", LogisticRegression(max_iter=2000)), ("b", DecisionTreeClassifier(max_depth=3))]))
    add("StackingClassifier", lambda: StackingClassifier([("a", LogisticRegression(max_iter=2000)), ("b", DecisionTreeClassifier(max_depth=3))]))
    add("SVC", lambda: make_pipeline(StandardScaler(), SVC()))
    add("LinearSVC", lambda: make_pipeline(StandardScaler(), LinearSVC()))
    add("SVR", lambda: make_pipeline(StandardScaler(), SVR()), "number")
    add("KNeighborsClassifier", KNeighborsClassifier)
    add("KNeighborsRegressor", KNeighborsRegressor, "number")
    add("MLPClassifier", lambda: make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=300)))
    add("MLPRegressor", lambda: make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(16,), max_iter=300)), "number")
    add("GaussianNB", GaussianNB)
    add("BernoulliNB", BernoulliNB)
    add("MultinomialNB", lambda: make_pipeline(MinMaxScaler(clip=True), MultinomialNB()))
    add("LinearDiscriminantAnalysis", LinearDiscriminantAnalysis)
    add("QuadraticDiscriminantAnalysis", QuadraticDiscriminantAnalysis)
    add("GaussianProcessRegressor", lambda: make_pipeline(StandardScaler(), GaussianProcessRegressor(alpha=0.1)), "number")
    add("KMeans", lambda: KMeans(4, n_init=3))
    add("MultiOutputRegressor", lambda: Twice(MultiOutputRegressor(Ridge())), "number")
    for name, step in {"StandardScaler": StandardScaler(), "MinMaxScaler": MinMaxScaler(), "RobustScaler": RobustScaler(),
                       "PolynomialFeatures": PolynomialFeatures(2), "PowerTransformer": PowerTransformer(),
                       "QuantileTransformer": QuantileTransformer(n_quantiles=50), "KBinsDiscretizer": KBinsDiscretizer(5)}.items():
        add(name + " + LogisticRegression", lambda step=step: make_pipeline(step, StandardScaler(with_mean=False), LogisticRegression(max_iter=2000)))
    add("SimpleImputer + Ridge", lambda: make_pipeline(SimpleImputer(), Ridge()), "number", MIXED[list(X)])

    numbers, words = list(X), ["city", "plan"]

    def columns(encoder, last):
        fill = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        return make_pipeline(ColumnTransformer([("n", fill, numbers), ("w", encoder, words)]), last)

    one_hot = lambda: make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    add("ColumnTransformer, OneHotEncoder + LogisticRegression", lambda: columns(one_hot(), LogisticRegression(max_iter=2000)), x=MIXED)
    add("ColumnTransformer, OneHotEncoder + RandomForestClassifier", lambda: columns(one_hot(), RandomForestClassifier(50)), x=MIXED)
    add("ColumnTransformer, OneHotEncoder that refuses + Ridge", lambda: columns(OneHotEncoder(), Ridge()), "number", MIXED)
    add("ColumnTransformer, OrdinalEncoder + GradientBoostingRegressor",
        lambda: columns(OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), GradientBoostingRegressor()), "number", MIXED)
    add("ColumnTransformer, TfidfVectorizer + LogisticRegression",
        lambda: make_pipeline(ColumnTransformer([("t", TfidfVectorizer(), "text")]), LogisticRegression()), x=SHORT, pyfunc_predict_fn="predict_proba")
    boosters(out, add, columns, one_hot)
    return out


class Twice:
    """Fits a regressor of two targets."""

    def __init__(self, inner):
        self.inner = inner

    def fit(self, x, y):
        return self.inner.fit(x, np.column_stack([y, -y + 1]))


def boosters(out, add, columns, one_hot):
    try:
        import xgboost

        trees = dict(n_estimators=100, max_depth=6)
        for name, model, target in (("XGBClassifier", xgboost.XGBClassifier(**trees), "two classes"),
                                    ("XGBClassifier, 3 classes", xgboost.XGBClassifier(**trees), "three classes"),
                                    ("XGBRegressor", xgboost.XGBRegressor(**trees), "number")):
            out[name] = lambda path, model=model, target=target: flavour(mlflow.xgboost, path, model.fit(X, Y[target]))
        out["xgboost.Booster"] = lambda path: flavour(mlflow.xgboost, path,
            xgboost.train({"objective": "binary:logistic", "max_depth": 6}, xgboost.DMatrix(X, Y["two classes"]), 50), answer=np.zeros(5, "f4"))
        add("ColumnTransformer + XGBClassifier", lambda: columns(one_hot(), xgboost.XGBClassifier(n_estimators=50)), x=MIXED)
    except ImportError:
        pass
    try:
        import lightgbm

        quiet = dict(n_estimators=100, verbose=-1)
        for name, model, target in (("LGBMClassifier", lightgbm.LGBMClassifier(**quiet), "two classes"),
                                    ("LGBMClassifier, 3 classes", lightgbm.LGBMClassifier(**quiet), "three classes"),
                                    ("LGBMRegressor", lightgbm.LGBMRegressor(**quiet), "number")):
            out[name] = lambda path, model=model, target=target: flavour(mlflow.lightgbm, path, model.fit(X, Y[target]))
        out["lightgbm.Booster"] = lambda path: flavour(mlflow.lightgbm, path,
            lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(X, Y["two classes"]), 50), answer=np.zeros(5))
        add("ColumnTransformer + LGBMRegressor", lambda: columns(one_hot(), lightgbm.LGBMRegressor(n_estimators=50, verbose=-1)), "number", MIXED)
    except ImportError:
        pass
    try:
        import catboost

        quiet = dict(iterations=100, verbose=0, allow_writing_files=False)
        for name, model, target in (("CatBoostClassifier", catboost.CatBoostClassifier(**quiet), "two classes"),
                                    ("CatBoostRegressor", catboost.CatBoostRegressor(**quiet), "number")):
            out[name] = lambda path, model=model, target=target: flavour(mlflow.catboost, path, model.fit(X, Y[target]))
    except ImportError:
        pass


def flavour(module, path, model, answer=None):
    if answer is None:
        answer = model.predict(X[:5])
    module.save_model(model, path, signature=infer_signature(X, answer), input_example=X[:5], pip_requirements=[])


def main():
    folder, wanted = sys.argv[1], sys.argv[2:]
    for name, make in estimators().items():
        if wanted and name not in wanted:
            continue
        try:
            make(os.path.join(folder, name))
            print(name)
        except Exception as e:
            print("%s: %s: %s" % (name, type(e).__name__, e), file=sys.stderr)


main()
