# Converts one MLflow model to ONNX, in both precisions where it can, and says
# what is worth asking to see whether the answers stay the same.
#
# It runs in a sandbox, with the model's own Python, so that the model loads as
# it does when it is served; the converters come from another environment whose
# packages lie behind the model's on the import path.
#
# Arguments: the model's folder, the folder to write to, the converters'
# site-packages. It writes plan.json and one .onnx file for each precision.
import json
import os
import sys
import traceback
import warnings

MODEL, OUT, TOOLS = sys.argv[1:4]
sys.path.append(TOOLS)
warnings.simplefilter("ignore")
os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite://")

MOST_POINTS = 400  # of one column
MOST_TEXTS = 200


OPSETS = {"": 18, "ai.onnx.ml": 3}  # which all converters know


class Unsuited(Exception):
    """The model is of a kind that has no converter here."""


def main():
    plan = {"candidates": [], "lost": [], "columns": []}
    try:
        convert(plan)
    except Unsuited as e:
        plan["why"] = str(e)
    except BaseException as e:  # a model or a converter may raise anything
        traceback.print_exc()
        plan["why"] = describe(e)
    with open(os.path.join(OUT, "plan.json"), "w", encoding="utf-8") as f:
        json.dump(plan, f)


def describe(e):
    text = " ".join("".join(traceback.format_exception_only(type(e), e)).split())
    return text if len(text) <= 400 else text[:400] + "…"


def convert(plan):
    import mlflow
    from mlflow import pyfunc

    loaded = pyfunc.load_model(MODEL)
    meta = loaded.metadata
    schema = meta.get_input_schema()
    if schema is None:
        raise Unsuited("it has no signature, so its requests have no types")
    params = meta.get_params_schema() if hasattr(meta, "get_params_schema") else None
    plan["mlflow"] = mlflow.__version__
    plan["schema"] = schema.to_json()
    plan["params"] = params.to_json() if params is not None else ""
    kind, model, function = raw(loaded)
    columns = columns_of(schema)
    sample = sample_of(loaded, schema, columns, model)
    predicted = loaded.predict(sample)
    answer = outputs_of(predicted) if kind == "onnx" else answer_of(predicted, len(sample))
    plan["columns"] = hints(kind, model, columns)
    for precision in ("as it is",) if kind == "onnx" else ("float32", "float64"):
        try:
            one = CONVERTERS[kind](model, function, columns, precision, answer)
        except BaseException as e:
            plan["lost"].append("%s: %s" % (precision, describe(e)))
            traceback.print_exc()
            continue
        if one is None:
            continue
        if kind == "onnx":
            precision = ""
        file = (precision or "model") + ".onnx"
        with open(os.path.join(OUT, file), "wb") as f:
            f.write(one.pop("bytes"))
        plan["candidates"].append(dict(one, precision=precision, file=file))
    if not plan["candidates"]:
        raise Unsuited(plan["lost"][0] if plan["lost"] else "nothing came of its conversion")


def raw(loaded):
    """(which converter, the model that the flavour wraps, the function it calls)"""
    flavors = loaded.metadata.flavors
    impl = loaded._model_impl
    module = flavors["python_function"]["loader_module"]
    if module == "mlflow.sklearn":
        return "sklearn", impl.sklearn_model, flavors["python_function"].get("predict_fn", "predict")
    if module == "mlflow.xgboost":
        return "xgboost", impl.xgb_model, "predict"
    if module == "mlflow.lightgbm":
        return "lightgbm", impl.lgb_model, "predict"
    if module == "mlflow.catboost":
        return "catboost", impl.cb_model, "predict"
    if module == "mlflow.onnx":
        return "onnx", os.path.join(MODEL, flavors["onnx"]["data"]), "predict"
    raise Unsuited("models of %s have no converter" % module)


def columns_of(schema):
    """[(name, MLflow's type)]; a tensor without a name is one column named ''."""
    if schema.is_tensor_spec():
        specs = list(schema.inputs)
        if len(specs) != 1 or len(specs[0].shape) != 2 or specs[0].shape[1] < 1:
            raise Unsuited("its signature is of tensors, and not of one with two dimensions")
        return [(specs[0].name or "", "tensor", specs[0].shape[1])]
    if not schema.has_input_names():
        raise Unsuited("its columns have no names")
    out = []
    for spec in schema.inputs:
        kind = getattr(spec.type, "name", "")
        if kind not in ("double", "float", "long", "integer", "boolean", "string"):
            raise Unsuited("its column %r is of type %s" % (spec.name, spec.type))
        out.append((spec.name, kind, 1))
    return out


def sample_of(loaded, schema, columns, model):
    """A few rows that the model takes: its own example, or made-up ones."""
    import numpy as np
    import pandas as pd

    try:
        example = loaded.input_example
    except Exception:
        example = None
    if isinstance(example, (pd.DataFrame, np.ndarray)) and len(example):
        return example
    if columns[0][1] == "tensor":
        return np.zeros((2, columns[0][2]), schema.inputs[0].type)
    texts = categories(model)
    frame = {}
    for name, kind, _ in columns:
        if kind == "string":
            frame[name] = [str((texts.get(name) or ["a"])[0])] * 2
        else:
            frame[name] = np.zeros(2, {"double": "f8", "float": "f4", "long": "i8", "integer": "i4", "boolean": "?"}[kind])
    return pd.DataFrame(frame)


def answer_of(result, rows):
    """How MLflow writes the answer: numpy's letter, and how long its rows are."""
    import numpy as np

    if type(result) is not np.ndarray or result.ndim not in (1, 2) or len(result) != rows:
        raise Unsuited("its answer is a %s, not one number or text, or one list of them, for each row" % type(result).__name__)
    letter = result.dtype.char
    if result.dtype.kind in "OU":
        if not all(type(v) is str for v in result.reshape(-1).tolist()):
            raise Unsuited("its answer holds objects")
        letter = "s"
    letter = {"l": "q", "L": "Q"}.get(letter, letter)
    if letter not in "dfqi?s":
        raise Unsuited("its answer is of type %s" % result.dtype)
    return {"kind": letter, "columns": result.shape[1] if result.ndim == 2 else 0}


def outputs_of(result):
    """The same for the onnx flavour: a frame of all outputs, or a dict of them."""
    import pandas as pd

    names = list(result.columns) if isinstance(result, pd.DataFrame) else list(result)
    outputs = []
    for name in names:
        dtype = getattr(result[name], "dtype", None)
        letter = {"l": "q", "L": "Q"}.get(dtype.char, dtype.char) if hasattr(dtype, "char") else "s"
        letter = "s" if letter in "OU" else letter
        if letter not in "dfqi?s":
            raise Unsuited("its output %s is of type %s" % (name, dtype))
        outputs.append({"name": name, "kind": letter})
    return {"records" if isinstance(result, pd.DataFrame) else "arrays": outputs}


# Conversion


def input_types(columns, precision, by_column, whole_ints):
    """[(name, skl2onnx type, numpy's letter, its columns)]"""
    from skl2onnx.common.data_types import BooleanTensorType, DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType

    real, letter = (FloatTensorType, "f") if precision == "float32" else (DoubleTensorType, "d")
    if not by_column:
        width = sum(c[2] for c in columns)
        return [("X", real([None, width]), letter, [c[0] for c in columns])]
    out = []
    for name, kind, _ in columns:
        if kind == "string":
            out.append((name, StringTensorType([None, 1]), "s", [name]))
        elif kind in ("long", "integer") and whole_ints:
            out.append((name, Int64TensorType([None, 1]), "q", [name]))
        elif kind == "boolean" and whole_ints:
            out.append((name, BooleanTensorType([None, 1]), "?", [name]))
        else:
            out.append((name, real([None, 1]), letter, [name]))
    return out


def sklearn(model, function, columns, precision, answer):
    from skl2onnx import convert_sklearn

    if type(model).__name__.startswith("HistGradientBoosting") and function == "predict":
        return histogram(model, columns, precision, answer)
    register()
    model = simplified(model)
    by_column = has_column_transformer(model) or any(c[1] == "string" for c in columns)
    options = dict(lower_case())
    classifier = hasattr(model, "predict_proba") or hasattr(model, "classes_") or hasattr(last(model), "classes_")
    if classifier:
        options[id(model)] = {"zipmap": False}
    failed = None
    for whole_ints in (True, False) if by_column else (False,):
        types = input_types(columns, precision, by_column, whole_ints)
        try:
            made = convert_sklearn(model, initial_types=[(t[0], t[1]) for t in types], options=options, target_opset=OPSETS)
        except Exception as e:
            if failed is None or isinstance(failed, NameError):
                failed = e
            continue
        return result(made, types, pick(made, function, classifier), answer)
    raise failed


def lower_case():
    """Lower case by a locale that every system has."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    return {CountVectorizer: {"locale": "C.UTF-8"}, TfidfVectorizer: {"locale": "C.UTF-8"}}


def simplified(model):
    """A copy without what makes no difference to a request that is asked here.

    Texts that are missing never are, so what fills them in does nothing; and
    boosters need no names for their features.
    """
    import copy

    model = copy.deepcopy(model)
    outer = model
    while hasattr(outer, "steps"):
        outer = outer.steps[0][1]
    for i, (name, step, columns) in enumerate(getattr(outer, "transformers_", [])):
        if fills_texts(step):
            outer.transformers_[i] = (name, "passthrough", columns)
        elif hasattr(step, "steps"):
            step.steps = [(n, s) for n, s in step.steps if not fills_texts(s)] or [("as_it_is", "passthrough")]
    nameless(last(model))
    return model


def fills_texts(step):
    if type(step).__name__ != "SimpleImputer" or step.add_indicator:
        return False
    return any(isinstance(v, str) for v in step.statistics_)


def nameless(model):
    if type(model).__module__.startswith("xgboost"):
        booster = model.get_booster() if hasattr(model, "get_booster") else model
        booster.feature_names = None


def register():
    """Teaches skl2onnx the estimators of boosting libraries within pipelines."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common._registration import get_converter, register_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes, calculate_linear_regressor_output_shapes

    plain_attributes()
    register_converter("SklearnSimpleImputer", filler(get_converter("SklearnSimpleImputer")), overwrite=True)
    try:
        from lightgbm import LGBMClassifier, LGBMRegressor
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        zipmap = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
        update_registered_converter(LGBMClassifier, "LgbmClassifier", calculate_linear_classifier_output_shapes, convert_lightgbm, options=zipmap)
        update_registered_converter(LGBMRegressor, "LgbmRegressor", calculate_linear_regressor_output_shapes, convert_lightgbm, options={"split": None})
    except ImportError:
        pass
    try:
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
        from xgboost import XGBClassifier, XGBRegressor

        zipmap = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
        update_registered_converter(XGBClassifier, "XgbClassifier", calculate_linear_classifier_output_shapes, convert_xgboost, options=zipmap)
        update_registered_converter(XGBRegressor, "XgbRegressor", calculate_linear_regressor_output_shapes, convert_xgboost)
    except ImportError:
        pass


def plain_attributes():
    """Some converters give nodes numpy's scalars, which newer versions of onnx refuse."""
    import numpy as np
    from skl2onnx.common import _container

    make = _container.make_node

    def plain(value):
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return value.tolist()
        if isinstance(value, list):
            return [plain(v) for v in value]
        return value

    _container.make_node = lambda *args, **kw: make(*args, **{k: plain(v) for k, v in kw.items()})


def filler(usual):
    """Fills in missing numbers in float64 too, for which ONNX Runtime has no Imputer."""
    import numpy as np
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.operator_converters.common import concatenate_variables

    def convert(scope, operator, container):
        step = operator.raw_operator
        values = np.asarray(step.statistics_)
        nan = isinstance(step.missing_values, float) and step.missing_values != step.missing_values
        if not nan or step.add_indicator or values.dtype.kind != "f" or np.isnan(values).any() \
                or not all(isinstance(i.type, DoubleTensorType) for i in operator.inputs):
            return usual(scope, operator, container)
        x = concatenate_variables(scope, operator.inputs, container)
        missing, fill = scope.get_unique_variable_name("missing"), scope.get_unique_variable_name("fill")
        container.add_initializer(fill, TensorProto.DOUBLE, [1, len(values)], values.tolist())
        container.add_node("IsNaN", [x], [missing], name=scope.get_unique_operator_name("IsNaN"))
        container.add_node("Where", [missing, fill, x], [operator.outputs[0].full_name], name=scope.get_unique_operator_name("Where"))

    return convert


def last(model):
    while hasattr(model, "steps"):
        model = model.steps[-1][1]
    return model


def has_column_transformer(model):
    while hasattr(model, "steps"):
        model = model.steps[0][1]
    return hasattr(model, "transformers_")


def pick(made, function, classifier):
    """The name of the output that is what the function returns."""
    names = [o.name for o in made.graph.output]
    if function == "predict":
        return names[0]
    if function == "predict_proba" and classifier and len(names) > 1:
        return names[1]
    raise Unsuited("its function %s has no output in ONNX" % function)


def prune(made, output):
    """Keeps of a graph what leads to one output: nobody asks the others."""
    graph = made.graph
    kept = [o for o in graph.output if o.name == output]
    del graph.output[:]
    graph.output.extend(kept)
    wanted, nodes = {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
            for attribute in node.attribute:
                for inner in [attribute.g] + list(attribute.graphs):
                    for deep in inner.node:
                        wanted.update(deep.input)
    del graph.node[:]
    graph.node.extend(reversed(nodes))


def mend(made):
    """Trees sum up to float32 whatever goes in; some converters declare float64."""
    from onnx import TensorProto, helper

    doubles = {o.name for o in made.graph.output if o.type.tensor_type.elem_type == TensorProto.DOUBLE}
    casts = []
    for node in made.graph.node:
        if node.op_type == "TreeEnsembleRegressor" and node.output[0] in doubles:
            name, node.output[0] = node.output[0], node.output[0] + "_single"
            casts.append(helper.make_node("Cast", [node.output[0]], [name], to=TensorProto.DOUBLE))
    made.graph.node.extend(casts)


def result(made, types, output, answer):
    prune(made, output)
    mend(made)
    return {
        "bytes": made.SerializeToString(),
        "inputs": [{"name": t[0], "kind": t[2], "columns": t[3]} for t in types],
        "answer": dict(answer, output=output),
    }


def lightgbm(model, function, columns, precision, answer):
    """Written out here: LightGBM compares float64, which its own converter rounds."""
    import numpy as np

    if precision != "float64":
        return None
    if any(c[1] == "string" for c in columns):
        raise Unsuited("it has columns of text")
    booster = model.booster_ if hasattr(model, "booster_") else model
    dump = booster.dump_model()
    objective = dump.get("objective", "").split(" ")
    per_row = dump["num_tree_per_iteration"]
    if dump.get("average_output"):
        raise Unsuited("its trees are averaged")
    nodes, leaves = Nodes(), Nodes()
    for number, tree in enumerate(dump["tree_info"]):
        grow(tree["tree_structure"], number, number % per_row, nodes, leaves)
    return ensemble(model, objective, per_row, nodes, leaves, np.zeros(per_row), columns, precision, answer)


def ensemble(model, objective, per_row, nodes, leaves, base, columns, precision, answer):
    """A graph of trees that compare float64, and of what follows them."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    width = sum(c[2] for c in columns)
    types = input_types(columns, precision, False, False)
    tensor = lambda values, name: numpy_helper.from_array(np.array(values, "f8"), name)
    graph = [helper.make_node("TreeEnsembleRegressor", ["X"], ["sums"], domain="ai.onnx.ml", n_targets=per_row, aggregate_function="SUM",
        post_transform="NONE", base_values_as_tensor=tensor(base, "b"), nodes_values_as_tensor=tensor(nodes.pop("values"), "v"), target_weights_as_tensor=tensor(leaves.pop("weights"), "w"),
        **{"nodes_" + k: v for k, v in nodes.items()}, **{"target_" + k: v for k, v in leaves.items()})]
    graph.append(helper.make_node("Cast", ["sums"], ["raw"], to=TensorProto.DOUBLE))
    output, constants = link(model, objective, per_row, graph)
    kind = {"q": TensorProto.INT64, "s": TensorProto.STRING}.get(answer["kind"], TensorProto.DOUBLE)
    made = helper.make_graph(graph, "trees", [helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, width])],
        [helper.make_tensor_value_info(output, kind, None)], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return result(helper.make_model(made, opset_imports=opsets, ir_version=8), types, output, answer)


def histogram(model, columns, precision, answer):
    """scikit-learn's histogram boosting, which compares float64 too."""
    import numpy as np

    if precision != "float64":
        return None
    if any(c[1] == "string" for c in columns) or getattr(model, "_preprocessor", None) is not None:
        raise Unsuited("it has categories")
    nodes, leaves = Nodes(), Nodes()
    per_row = model.n_trees_per_iteration_
    for i, group in enumerate(model._predictors):
        for target, tree in enumerate(group):
            number = i * per_row + target
            for k, node in enumerate(tree.nodes):
                leaf = bool(node["is_leaf"])
                if not leaf and node["is_categorical"]:
                    raise Unsuited("it splits by categories")
                nodes.add(treeids=number, nodeids=k, modes="LEAF" if leaf else "BRANCH_LEQ", featureids=0 if leaf else int(node["feature_idx"]),
                    values=0.0 if leaf else float(node["num_threshold"]), truenodeids=0 if leaf else int(node["left"]),
                    falsenodeids=0 if leaf else int(node["right"]), missing_value_tracks_true=int(not leaf and node["missing_go_to_left"]))
                if leaf:
                    leaves.add(treeids=number, nodeids=k, ids=target, weights=float(node["value"]))
    objective = {"log_loss": "binary" if per_row == 1 else "multiclass", "squared_error": "regression", "absolute_error": "regression",
        "quantile": "regression", "poisson": "poisson", "gamma": "gamma"}.get(model.loss, str(model.loss))
    return ensemble(model, [objective], per_row, nodes, leaves, np.asarray(model._baseline_prediction).reshape(-1), columns, precision, answer)


class Nodes(dict):
    """The columns of a tree ensemble's tables."""

    def add(self, **row):
        for name, value in row.items():
            self.setdefault(name, []).append(value)


def grow(node, tree, target, nodes, leaves):
    """Adds a tree, each node before its branches."""
    todo, count = [(node, None, None)], 0
    while todo:
        node, parent, branch = todo.pop()
        if parent is not None:
            nodes[branch][parent] = count
        leaf = "split_feature" not in node
        if not leaf and node["decision_type"] != "<=":
            raise Unsuited("it splits by categories")
        nodes.add(treeids=tree, nodeids=count, modes="LEAF" if leaf else "BRANCH_LEQ", featureids=0 if leaf else node["split_feature"],
            values=0.0 if leaf else node["threshold"], truenodeids=0, falsenodeids=0,
            missing_value_tracks_true=int(not leaf and tracks_true(node)))
        if leaf:
            leaves.add(treeids=tree, nodeids=count, ids=target, weights=node["leaf_value"])
        else:
            here = len(nodes["values"]) - 1
            todo.append((node["right_child"], here, "falsenodeids"))
            todo.append((node["left_child"], here, "truenodeids"))
        count += 1


def tracks_true(node):
    """Whether a missing value goes left. Where none was seen in training it is taken for zero."""
    if node["missing_type"] == "Zero":
        raise Unsuited("it takes zeros for missing values")
    if node["missing_type"] == "NaN":
        return node["default_left"]
    return 0.0 <= node["threshold"]


def link(model, objective, per_row, graph):
    """From the trees' sums to what predict answers: (output, constants)."""
    import numpy as np
    from onnx import helper, numpy_helper

    labels = hasattr(model, "classes_")
    kind, constants = objective[0], []
    if labels:
        classes = np.asarray(model.classes_)
        constants.append(numpy_helper.from_array(classes.astype(object if classes.dtype.kind in "OU" else "i8"), "classes"))
    if kind == "binary":
        sigma = dict(p.split(":") for p in objective[1:] if ":" in p).get("sigmoid", "1")
        if labels:
            constants += [numpy_helper.from_array(np.zeros(1), "zero"), numpy_helper.from_array(np.array([-1]), "flat")]
            graph += [helper.make_node("Greater", ["raw", "zero"], ["over"]), helper.make_node("Cast", ["over"], ["at"], to=7),
                helper.make_node("Gather", ["classes", "at"], ["picked"]), helper.make_node("Reshape", ["picked", "flat"], ["label"])]
            return "label", constants
        constants.append(numpy_helper.from_array(np.array([float(sigma)]), "sigma"))
        graph += [helper.make_node("Mul", ["raw", "sigma"], ["scaled"]), helper.make_node("Sigmoid", ["scaled"], ["probability"])]
        return "probability", constants
    if kind == "multiclass":
        if labels:
            graph += [helper.make_node("ArgMax", ["raw"], ["at"], axis=1, keepdims=0), helper.make_node("Gather", ["classes", "at"], ["label"])]
            return "label", constants
        graph.append(helper.make_node("Softmax", ["raw"], ["probabilities"], axis=1))
        return "probabilities", constants
    if kind in ("poisson", "gamma", "tweedie"):
        graph.append(helper.make_node("Exp", ["raw"], ["variable"]))
        return "variable", constants
    if kind in ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank") and "sqrt" not in objective and not labels:
        return "raw", constants
    raise Unsuited("its objective is %s" % " ".join(objective))


def boosted(convert):
    def one(model, function, columns, precision, answer):
        if precision != "float32":
            return None  # these converters write float32 thresholds in any case
        if any(c[1] == "string" for c in columns):
            raise Unsuited("it has columns of text")
        from onnxmltools.convert.common.data_types import FloatTensorType

        types = input_types(columns, precision, False, False)
        made, output = convert(model, [(t[0], FloatTensorType(t[1].shape)) for t in types])
        types[0] = (made.graph.input[0].name,) + types[0][1:]
        return result(made, types, output, answer)

    return one


def xgboost(model, types):
    from onnxmltools import convert_xgboost

    nameless(model)
    made = convert_xgboost(model, initial_types=types)
    names = [o.name for o in made.graph.output]
    return made, probability_or_label(model, names)


def probability_or_label(model, names):
    # A bare Booster predicts probabilities, the scikit-learn API's classes labels.
    if len(names) > 1 and type(model).__name__ == "Booster":
        return names[1]
    return names[0]


def catboost(model, types):
    import onnx

    path = os.path.join(OUT, "catboost.tmp")
    model.save_model(path, format="onnx")
    made = onnx.load(path)
    os.remove(path)
    return made, made.graph.output[0].name


def onnx_file(path, function, columns, precision, answer):
    """There is nothing to convert."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    letters = {1: "f", 11: "d", 7: "q", 6: "i", 9: "?", 8: "s"}
    weights = {w.name for w in model.graph.initializer}
    ports = [p for p in model.graph.input if p.name not in weights]
    names = [c[0] for c in columns]
    inputs = []
    for port in ports:
        letter = letters.get(port.type.tensor_type.elem_type)
        if letter is None:
            raise Unsuited("its input %s is of a type that is not served" % port.name)
        one = {"name": port.name, "kind": letter, "columns": names}
        if len(ports) > 1:  # MLflow gives each the column of its name, as it is
            one.update(columns=[port.name], flat=True)
        inputs.append(one)
    with open(path, "rb") as f:
        return {"bytes": f.read(), "inputs": inputs, "answer": answer}


CONVERTERS = {"onnx": onnx_file, "sklearn": sklearn, "xgboost": boosted(xgboost), "lightgbm": lightgbm, "catboost": boosted(catboost)}


# What is worth asking


def hints(kind, model, columns):
    """For each column values at which models change their minds, and texts."""
    points = {}
    try:
        points = thresholds(kind, model, columns)
    except Exception:
        traceback.print_exc()
    texts = categories(model)
    free = words(model)
    out = []
    for i, (name, type_, width) in enumerate(columns):
        if type_ == "tensor":
            for k in range(width):
                out.append({"name": name, "type": "tensor", "points": thin(points.get(k, []), MOST_POINTS)})
            continue
        known = texts.get(name, [])
        one = {"name": name, "type": type_, "points": thin(points.get(i, []), MOST_POINTS), "texts": [], "free": False}
        if type_ == "string":
            one["texts"] = [t for t in known if isinstance(t, str)][:MOST_TEXTS]
            if name in free:
                one["texts"], one["free"] = thin(sorted(free[name]), MOST_TEXTS), True
        else:
            one["points"] += [float(v) for v in known if isinstance(v, (int, float)) and v == v][:MOST_POINTS]
        out.append(one)
    return out


def thin(values, most):
    values = list(values)
    step = max(1, -(-len(values) // most))
    return values[::step]


def thresholds(kind, model, columns):
    """{column: [threshold]}"""
    out = {}

    def add(feature, value):
        if feature >= 0 and value == value and abs(value) < 1e37:
            out.setdefault(int(feature), set()).add(float(value))

    before = []
    if kind == "sklearn":
        while hasattr(model, "steps"):
            before += [s for _, s in model.steps[:-1] if s is not None and s != "passthrough"]
            model = model.steps[-1][1]
        trees(model, add)
    name = type(model).__module__.split(".")[0]
    booster = None
    if kind == "xgboost" or name == "xgboost":
        booster = model.get_booster() if hasattr(model, "get_booster") else model
        frame = booster.trees_to_dataframe()
        names = booster.feature_names or ["f%d" % i for i in range(booster.num_features())]
        where = {n: i for i, n in enumerate(names)}
        for feature, split in zip(frame["Feature"], frame["Split"]):
            if feature != "Leaf":
                add(where.get(feature, -1), split)
    elif kind == "lightgbm" or name == "lightgbm":
        booster = model.booster_ if hasattr(model, "booster_") else model
        frame = booster.trees_to_dataframe()
        where = {n: i for i, n in enumerate(booster.feature_name())}
        for feature, split in zip(frame["split_feature"], frame["threshold"]):
            if feature is not None and isinstance(split, (int, float)):
                add(where.get(feature, -1), split)
    elif kind == "catboost":
        for feature, borders in model.get_borders().items():
            for border in borders:
                add(feature, border)
    return back(before, {k: sorted(v) for k, v in out.items()}, sum(c[2] for c in columns))


def trees(model, add):
    """Thresholds of scikit-learn's trees, forests and boosters."""
    import numpy as np

    if hasattr(model, "tree_"):
        for f, t in zip(model.tree_.feature, model.tree_.threshold):
            add(f, t)
    for group in getattr(model, "_predictors", []):
        for one in group:
            for node in one.nodes:
                if not node["is_leaf"]:
                    add(int(node["feature_idx"]), float(node["num_threshold"]))
    inner = getattr(model, "estimators_", None)
    if inner is not None:
        for e in np.asarray(inner, dtype=object).reshape(-1):
            if e is not model and e is not None and not isinstance(e, str):
                trees(e, add)


def back(before, points, width):
    """The same points before the steps that lie in front of the trees."""
    import numpy as np

    if not before or not points:
        return points
    out = {}
    for column, values in points.items():
        rows = np.zeros((len(values), width))
        rows[:, column] = values
        for step in reversed(before):
            if not hasattr(step, "inverse_transform"):
                return {}
            if hasattr(step, "statistics_"):
                continue  # an imputer leaves what is there
            rows = np.asarray(step.inverse_transform(rows))
            if rows.shape != (len(values), width):
                return {}
        out[column] = rows[:, column].tolist()
    return out


def each_transformer(model):
    """(transformer, its columns' names) of every ColumnTransformer at the front."""
    while hasattr(model, "steps"):
        model = model.steps[0][1]
    for _, step, columns in getattr(model, "transformers_", []):
        if isinstance(columns, str):
            columns = [columns]
        if not isinstance(step, str) and isinstance(columns, list) and all(isinstance(c, str) for c in columns):
            while hasattr(step, "steps"):
                found = [s for _, s in step.steps if hasattr(s, "categories_") or hasattr(s, "vocabulary_")]
                step = found[0] if found else step.steps[-1][1]
            yield step, columns


def categories(model):
    """{column: [category]} of encoders."""
    out = {}
    for step, columns in each_transformer(model):
        for name, values in zip(columns, getattr(step, "categories_", [])):
            out[name] = [v.item() if hasattr(v, "item") else v for v in values]
    return out


def words(model):
    """{column: [word]} of vectorizers, which take any text."""
    out = {}
    for step, columns in each_transformer(model):
        if hasattr(step, "vocabulary_"):
            out[columns[0]] = list(step.vocabulary_)
    return out


main()
