"""Writes the models and requests of the differential test:
python scoring_requests.py FOLDER [SEED].

Requests lie in requests.jsonl, one JSON object a line: model, name, type (null: no Content-Type), body in
base64, clean (a JSON body that has to cross as columns).
"""

import base64
import io
import json
import os
import random
import sys
import warnings

import pandas as pd


class Raw(str):
    """A piece of JSON text that is written as it is."""


def dump(x, rng=None):
    """JSON text, with blanks where rng wants them."""
    gap = (lambda: rng.choice(["", "", "", " ", "\n", "\t", "\r\n  "])) if rng else (lambda: "")
    if isinstance(x, Raw):
        return str(x)
    if isinstance(x, dict):
        pairs = x.items()
    elif isinstance(x, Pairs):
        pairs = x.pairs
    elif isinstance(x, list):
        return "[" + ",".join(gap() + dump(v, rng) + gap() for v in x) + "]"
    elif isinstance(x, str):
        return json.dumps(x, ensure_ascii=rng is None or rng.random() < 0.5)
    else:
        return json.dumps(x)
    return "{" + ",".join(gap() + dump(k, rng) + gap() + ":" + gap() + dump(v, rng) + gap() for k, v in pairs) + "}"


class Pairs:
    """An object with its members in order, twice the same key if need be."""

    def __init__(self, *pairs):
        self.pairs = pairs


WORDS = ["", "a", "good day", "bad food", "Oslo", "Paris", "Łódź", "basic", "gold", "é\u2028", "😀", 'q"uo\\te', "x\n\ty", "null", "NaN",
         "7", "3.5", "true", "\x7f", "a" * 300, "עברית", "a/b"]


def double(rng):
    return rng.choice([
        lambda: rng.gauss(0, 1), lambda: rng.randint(-5, 5), lambda: rng.randint(-(2**53), 2**53), lambda: None,
        lambda: rng.gauss(0, 1) * 10 ** rng.randint(-300, 300), lambda: Raw(rng.choice(["1e5", "-0", "-0.0", "1E-3", "0.1e+2", "5e-324", "1e-400"])),
        lambda: round(rng.gauss(0, 100), 2), lambda: rng.gauss(0, 1), lambda: rng.gauss(0, 1),
    ])()


def single(rng):
    return rng.choice([lambda: rng.gauss(0, 1), lambda: rng.randint(-9, 9), lambda: rng.gauss(0, 1) * 10 ** rng.randint(-30, 30), lambda: None])()


CLEAN = {
    "double": double,
    "float": single,
    "long": lambda rng: rng.choice([rng.randint(-9, 9), rng.randint(-(2**63), 2**63 - 1), Raw("-0")]),
    "integer": lambda rng: rng.choice([rng.randint(-9, 9), rng.randint(-(2**31), 2**31 - 1)]),
    "boolean": lambda rng: rng.random() < 0.5,
    "string": lambda rng: rng.choice(WORDS),
    "word": lambda rng: rng.choice(WORDS + [None] * 4),
}

DIRTY = [None, True, False, 0, 1, 2.5, -1.0, "7", "7.0", "abc", "", "1.5", " 4 ", [1], {"z": 1}, [], Raw("1e400"), Raw("-1e400"), Raw("NaN"),
         Raw("Infinity"), Raw("-Infinity"), 2**31, -(2**31) - 1, 2**63, 2**64, 2**53 + 1, 10**40, Raw("1e30"), Raw("1e39"), Raw("1.0"), Raw("2e3"),
         "2024-02-28", "2024-02-28T10:00:00Z", "aGk=", "!!!!", "a\x00b", "\x00", Raw('"\\ud800"'), Raw('"\\ud83d\\ude00"'), Raw("nan"), Raw(".5"),
         Raw("01"), Raw("+1"), Raw("1."), Raw("0x1"), Raw("tru"), Raw('"\x01"'), Raw("'a'"), Raw("-"), Raw("1e"), Raw('"\\x"'), Raw('"\\u12"'), 1e300]

SCHEMAS = {
    "logistic": [("a", "double", 1), ("b", "double", 1), ("c", "double", 1), ("d", "double", 1)],
    "xgboost": [("a", "double", 1), ("b", "double", 1), ("c", "double", 1), ("d", "double", 1)],
    "lightgbm": [("a", "double", 1), ("b", "double", 1), ("c", "double", 1), ("d", "double", 1), ("k", "long", 1)],
    "pipeline": [("age", "double", 1), ("income", "double", 1), ("city", "word", 1), ("plan", "word", 0)],
    "text": [("text", "string", 1)],
    "scalars": [("d", "double", 1), ("f", "float", 1), ("l", "long", 1), ("i", "integer", 1), ("b", "boolean", 1), ("s", "word", 1),
                ("od", "double", 0), ("os", "word", 0), ("ol", "long", 0)],
    "single": [("only", "long", 1)],
    "series": [("x", "double", 1), ("z", "long", 1)],
    "params": [("x", "double", 1)],
}

FORMS = ["split", "split", "records", "records", "instances", "inputs", "columns", "columns_inputs", "scalars", "bare"]


def table(rng, schema, n):
    columns = [c for c in schema if c[2] or rng.random() < 0.5]
    if rng.random() < 0.3:
        rng.shuffle(columns)
    return [c[0] for c in columns], [[CLEAN[c[1]](rng) for c in columns] for _ in range(n)]


def wrap(rng, form, names, rows):
    """The body of a table in one of the forms, as something to dump."""
    records = [dict(zip(names, r)) for r in rows]
    if form == "split":
        pairs = [("columns", list(names)), ("data", rows)]
        if rng.random() < 0.4:
            pairs.append(("index", rng.choice([list(range(len(rows))), [rng.randint(-5, 5) for _ in rows]])))
        if rng.random() < 0.3:
            rng.shuffle(pairs)
        return [("dataframe_split", Pairs(*pairs))]
    if form == "records":
        return [("dataframe_records", records)]
    if form in ("instances", "inputs"):
        return [(form, records)]
    if form in ("columns", "columns_inputs"):
        key = "instances" if form == "columns" else "inputs"
        return [(key, {name: [r[i] for r in rows if i < len(r)] for i, name in enumerate(names)})]
    if form == "scalars":
        return [(rng.choice(["instances", "inputs"]), records[0])]
    return [(rng.choice(["instances", "inputs"]), [r[0] for r in rows])]


class Writer:
    def __init__(self, out):
        self.out = out
        self.count = 0

    def __call__(self, model, name, body, content_type="application/json", clean=False):
        if isinstance(body, str):
            body = body.encode("utf-8", "surrogatepass")
        elif not isinstance(body, bytes):
            body = dump(body).encode()
        self.count += 1
        self.out.write(json.dumps({"model": model, "name": name, "type": content_type, "clean": clean,
                                   "body": base64.b64encode(body).decode()}) + "\n")


def clean_tables(put, rng, model, schema, count):
    for i in range(count):
        form = rng.choice(FORMS if len(schema) == 1 else FORMS[:-1])
        names, rows = table(rng, schema, rng.choice([1, 1, 1, 2, 5, 20]))
        pairs = wrap(rng, form, names, rows)
        if rng.random() < 0.1:
            pairs.append(rng.choice([("client_request_id", "x"), ("extra", {"a": [1, None, "x"]}), ("params", None), ("params", {})]))
            rng.shuffle(pairs)
        put(model, "clean %s %d" % (form, i), dump(Pairs(*pairs), rng), clean=True)


def dirty_tables(put, rng, model, schema, count):
    for i in range(count):
        form = rng.choice(FORMS)
        names, rows = table(rng, schema, rng.choice([1, 1, 2, 3]))
        spoil = rng.choice(["value", "value", "value", "value", "value", "column", "extra", "missing", "ragged", "twice", "short", "none", "order"])
        if spoil == "value":
            for _ in range(rng.choice([1, 1, 2])):
                rng.choice(rows)[rng.randrange(len(names))] = rng.choice(DIRTY)
        elif spoil == "column":
            k, v = rng.randrange(len(names)), rng.choice(DIRTY)
            for r in rows:
                r[k] = v
        elif spoil == "extra":
            names.insert(rng.randint(0, len(names)), rng.choice(["zz", "", "é", "0"]))
            rows = [r + [rng.choice(DIRTY[:20])] for r in rows]
        elif spoil == "missing":
            k = rng.randrange(len(names))
            del names[k]
            rows = [r[:k] + r[k + 1 :] for r in rows]
        elif spoil == "ragged":
            rng.choice(rows).append(1)
        elif spoil == "short":
            rng.choice(rows).pop()
        elif spoil == "twice":
            names[rng.randrange(len(names))] = names[0]
        elif spoil == "none":
            rows = []
        elif spoil == "order":
            names.reverse()
        if form == "scalars" and not rows or form == "bare" and any(not r for r in rows):
            form = "split"
        put(model, "dirty %s %s %d" % (spoil, form, i), dump(Pairs(*wrap(rng, form, names, rows)), rng))


def files(put, rng, model, schema, count):
    """CSV and Parquet."""
    for i in range(count):
        names, rows = table(rng, schema, rng.choice([1, 2, 5]))
        rows = [[None if isinstance(v, Raw) else v for v in r] for r in rows]
        if rng.random() < 0.3:
            rows[0][rng.randrange(len(names))] = None
        frame = pd.DataFrame(rows, columns=names)
        if i % 2:
            out = io.BytesIO()
            try:
                frame.to_parquet(out)
            except Exception:
                continue  # a mixed column, which Parquet cannot hold
            body = out.getvalue()
            put(model, "parquet %d" % i, body if rng.random() < 0.9 else body[: len(body) // 2], "application/vnd.apache.parquet")
        else:
            text = frame.to_csv(index=rng.random() < 0.1)
            text = rng.choice([str] * 6 + [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t, lambda t: t + "1,2,3,4,5,6,7,8,9,10,11\n",
                                           lambda t: t.replace(",", ";"), lambda t: t.splitlines()[0] + "\n", lambda t: ""])(text)
            put(model, "csv %d" % i, text, rng.choice(["text/csv", "text/csv; charset=utf-8"]))


EVERY_BODY = [
    "", "{}", "[]", "null", "1", '"s"', "true", "[1,2]", "{", '{"a"', "{}{}", "{} x", "nul", "\ufeff{}", "  {}  ", "{'a':1}", '{"a":1,}', "\x00",
    '{"a":1}', '{"instances":[1],"inputs":[1]}', '{"dataframe_split":{},"dataframe_records":[]}', '{"instances":null}', '{"inputs":null}',
    '{"inputs":{}}', '{"instances":{}}', '{"instances":[]}', '{"inputs":[]}', '{"inputs":1}', '{"inputs":"x"}', '{"instances":"x"}', '{"inputs":[null]}',
    '{"dataframe_split":null}', '{"dataframe_split":[]}', '{"dataframe_split":{"columns":["a"]}}', '{"dataframe_split":{"data":[[1]]}}',
    '{"dataframe_split":{"columns":null,"data":[[1]]}}', '{"dataframe_split":{"columns":["a"],"data":[]}}', '{"dataframe_split":{"columns":[],"data":[]}}',
    '{"dataframe_split":{"columns":["a"],"data":[[1]],"x":1}}', '{"dataframe_split":{"columns":["a"],"data":[1]}}', '{"dataframe_split":{"columns":["a"],"data":{"a":[1]}}}',
    '{"dataframe_split":{"columns":["a","a"],"data":[[1,2]]}}', '{"dataframe_split":{"columns":[1],"data":[[1]]}}', '{"dataframe_split":{"columns":["a"],"data":[[1,2]]}}',
    '{"dataframe_split":{"columns":["a"],"data":[[1]],"index":[1,2]}}', '{"dataframe_split":{"columns":["a"],"data":[[1]],"index":["r"]}}',
    '{"dataframe_records":null}', '{"dataframe_records":{}}', '{"dataframe_records":[]}', '{"dataframe_records":[1]}', '{"dataframe_records":[{}]}', '{"dataframe_records":[[1]]}',
    '{"instances":[[1,2],[3]]}', '{"instances":[[1,2,3,4]]}', '{"inputs":[[1,2,3,4],[5,6,7,8.5]]}', '{"inputs":[[[1,2],[3,4]]]}', '{"inputs":[{"a":1},2]}',
    '{"instances":[{"a":1},{"b":2}]}', '{"inputs":{"a":[1],"b":[1,2]}}', '{"instances":{"a":[1],"b":[1,2]}}', '{"instances":[1,"a"]}', '{"instances":[true,false]}',
    '{"inputs":["a","b"]}', '{"inputs":[{"name":"Ann","age":3}]}', '{"signature_name":"x","instances":[1]}', '{"instances":[NaN,Infinity,-Infinity]}',
    '{"inputs":[1],"inputs":[2]}', '{"inputs":[1],"params":{"by":1}}', '{"inputs":[1],"params":[1]}', '{"inputs":[1],"params":"x"}', '{"params":{}}',
    '{"messages":[{"role":"user","content":"hi"}]}', '{"prompt":"hi"}', '{"input":"hi"}', '{"messages":null,"inputs":[1]}', '{"prompt":["a","b"],"temperature":0.5}',
    '{"inputs":[1]}\n', '{"inputs":' + "[" * 70 + "1" + "]" * 70 + "}", '{"inputs":"\\ud83d"}', '{"inputs":["\\u0000"]}', '{"inputs":["tab\there"]}', '{"inputs":' + "9" * 400 + "}",
    '{"inputs":[1e400,-1e400,1e-400]}', '{"inputs":[.5]}', '{"inputs":[01]}', '{"x":"' + "k" * 3000 + '"}', '{"' + "k" * 3000 + '":1}',
]

EVERY_BYTES = [b"\xff", b"\xff\xfe{\x00}\x00", '{"inputs":[1]}'.encode("utf-16"), '{"inputs":[1]}'.encode("utf-32"), '{"inputs":["é"]}'.encode("latin-1"),
               b'{"inputs":["\xed\xa0\x80"]}', b"\x1f\x8b\x08\x00", b'\xef\xbb\xbf{"inputs":[1]}']

TYPES = [None, "", "application/json; charset=utf-8", "application/json;charset=UTF-8", 'application/json; charset="utf-8"', "application/json; charset=latin-1",
         "application/json; charset=", "application/json; x=y", "application/json;", "Application/JSON", "application/json ", "text/plain", "application/csv",
         "text/csv; header=present", "application/octet-stream", "application/json; charset=utf8", "application/json; Charset=utf-8", "text/csv", "*/*", "json",
         "application/vnd.apache.parquet", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]


def every(put, model):
    for i, body in enumerate(EVERY_BODY):
        put(model, "body %d %.40s" % (i, body), body)
    for i, body in enumerate(EVERY_BYTES):
        put(model, "bytes %d" % i, body)


def types(put, model, body):
    for t in TYPES:
        put(model, "type %s" % t, body, t)
    put(model, "deep", '{"inputs":' + "[" * 100000 + "]" * 100000 + "}")
    put(model, "deep list", "[" * 3000)
    put(model, "long int", '{"inputs":' + "9" * 5000 + "}")
    put(model, "csv bytes", b"a,b\n\xff,1\n", "text/csv")


def kinds(put, model, names):
    for name in names:
        for n in (1, 2, 3):
            put(model, "%s %d" % (name, n), {"dataframe_split": {"columns": ["kind"], "data": [[name]] * n}}, clean=True)
        put(model, "%s inputs" % name, {"inputs": [name, name]}, clean=True)
        put(model, "%s csv" % name, "kind\n%s\n" % name, "text/csv")


def params(put, rng, model):
    values = [0, 1, -2, 1.5, 5.0, True, None, "x", "0.5", [1], ["a", "b"], [], {}, 2**40, 2**63, Raw("NaN"), Raw("1e400"), "2024-01-02T03:04:05", [None], [1.5, 2]]
    for key in ["by", "n", "word", "flag", "names", "when", "unknown"]:
        for v in values:
            put(model, "params %s=%s" % (key, dump(v)), {"dataframe_split": {"columns": ["x"], "data": [[1.5]]}, "params": {key: v}})
    for i in range(40):
        chosen = {k: rng.choice(values) for k in rng.sample(["by", "n", "word", "flag", "names"], 2)}
        put(model, "params both %d" % i, Pairs(("params", chosen), ("inputs", {"x": [1, 2.5]})))


def llm(put, rng, model):
    messages = [{"role": "user", "content": "hi"}]
    bodies = [
        {"messages": messages}, {"messages": messages, "temperature": 0.1}, {"messages": messages, "temperature": None}, {"messages": []},
        {"messages": [{"role": "user"}]}, {"messages": [{"role": "user", "content": "a", "x": 1}]}, {"messages": "x"}, {"messages": messages, "extra": 1},
        {"messages": messages, "max_tokens": 5, "n": 1, "stop": ["a"]}, {"messages": messages, "custom_inputs": {"a": 1}}, {"inputs": {"messages": messages}},
        {"dataframe_records": [{"messages": messages}]}, {"dataframe_split": {"columns": ["messages"], "data": [[messages]]}}, {"instances": [{"messages": messages}]},
        {"prompt": "a"}, {"prompt": "a", "temperature": 1}, {"prompt": "a", "temperature": "x"}, {"prompt": ["a", "b"], "max_tokens": 3}, {"prompt": 1}, {"prompt": None},
        {"inputs": ["a"], "params": {"temperature": 0.2}}, {"input": "a"}, {"input": ["a"], "inputs": [1]}, {"prompt": "é😀", "max_tokens": 2.5},
        {"messages": messages * 3, "tools": []}, {"messages": messages, "stream": False}, {"prompt": "a", "stream": False},
    ]
    for i, body in enumerate(bodies):
        put(model, "llm %d" % i, body)


def hints(put, model):
    values = [["a", "b"], [], "a", ["a", 1], [None], {"a": 1}, [{"name": "Ann", "age": 3}], [{"name": "Ann", "age": "3"}], [{"name": "Ann", "age": 3.0}],
              [{"name": "Ann"}], [{"name": "Ann", "age": 3, "x": 1}], {"name": "Ann", "age": 3}, [{"name": "é", "age": 1, "tags": ["q"], "height": 2}],
              [{"name": "Ann", "age": 3, "tags": "q"}], [{"name": Raw('"\\ud800"'), "age": 3}], [Raw('"\\ud800"')], [Raw("NaN")], [["a"]]]
    for i, v in enumerate(values):
        put(model, "hints %d" % i, {"inputs": v})
        put(model, "hints instances %d" % i, {"instances": v})
        put(model, "hints both %d" % i, {"dataframe_records": v, "inputs": v})
    put(model, "hints csv", "a\nx\n", "text/csv")
    put(model, "hints params", {"inputs": ["a"], "params": {"x": 1}})


def tensors(put, rng, model, shapes, whole, count):
    def value(bad):
        if bad and rng.random() < 0.1:
            return rng.choice(DIRTY)
        return rng.randint(-99, 99) if whole else rng.choice([rng.gauss(0, 1), rng.randint(-9, 9), Raw("1e-3")])

    def nest(shape, bad):
        if not shape:
            return value(bad)
        n = shape[0] + (rng.choice([-1, 1]) if bad and rng.random() < 0.05 else 0)
        return [nest(shape[1:], bad) for _ in range(n)]

    for i in range(count):
        n, bad = rng.choice([1, 1, 2, 5]), i % 3 == 2
        values = {name: nest([n] + shape, bad) for name, shape in shapes.items()}
        if "" in values:
            data, clean = values[""], not bad
            if shapes[""] == [4] and i % 5 == 4:
                form = {"dataframe_split": {"columns": list("abcd")[: len(data[0]) if data else 0], "data": data}}
                put(model, "tensor frame %d" % i, form)
                continue
        else:
            data, clean = values, not bad
            if i % 5 == 4:
                data = [{k: v[j] for k, v in values.items()} for j in range(n) if all(len(v) > j for v in values.values())]
                clean = False
        put(model, "tensor %d" % i, dump({rng.choice(["instances", "inputs"]): data}, rng), clean=clean)


def odd(put, rng):
    when = ["2024-02-28", "2024-02-28T10:00:00", "2024-02-28 10:00", "2024-02-28T10:00:00Z", "1500-01-01", "", None, 5, 1.5, "x"]
    binary = ["aGk=", "", "!!!!", "aGk", None, 5, "é"]
    for i in range(90):
        n = rng.choice([1, 2])
        rows = [[rng.choice(when), rng.choice(binary), 1] for _ in range(n)]
        form = rng.choice(["split", "records", "instances", "inputs", "columns", "columns_inputs"])
        put("calendar", "calendar %s %d" % (form, i), Pairs(*wrap(rng, form, ["t", "y", "l"], rows)))
    put("calendar", "calendar csv", "t,y\n2024-01-01,aGk=\n", "text/csv")
    lists = [[1, 2], [0, 1], [1.0, 2], [], None, "x", [None], [1.5]]
    people = [{"name": "a"}, {"name": "a", "age": 3}, {"age": 3}, {"name": "a", "z": 1}, None, "x", {"name": 1}, {"name": "a", "age": 2.5}]
    for i in range(80):
        rows = [[rng.choice(lists), rng.choice(people)] for _ in range(rng.choice([1, 2]))]
        form = rng.choice(["split", "records", "instances", "inputs", "columns"])
        put("nested", "nested %s %d" % (form, i), Pairs(*wrap(rng, form, ["v", "o"], rows)))
    for i in range(50):
        rows = [[rng.choice([1, 2.5, None, "x"]), rng.choice(["a", None, 3])] + rng.choice([[], [1]]) for _ in range(2)]
        put("nameless", "nameless %d" % i, rng.choice([{"inputs": rows}, {"instances": rows}, {"dataframe_split": {"data": rows}},
                                                      {"dataframe_records": [{"p": r[0], "q": r[1]} for r in rows]}]))


def main():
    folder = sys.argv[1]
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    warnings.simplefilter("ignore")
    import cloudpickle
    import scoring_models

    # Where the models are loaded, nobody finds that module.
    cloudpickle.register_pickle_by_value(scoring_models)
    scoring_models.write(os.path.join(folder, "models"))
    with open(os.path.join(folder, "requests.jsonl"), "w") as out:
        put = Writer(out)
        for model in ["logistic", "text", "scalars", "single", "calendar", "nested", "nameless", "params", "tensor", "tensors", "unsigned", "words", "people", "chat", "prompt"]:
            every(put, model)
        types(put, "logistic", {"dataframe_split": {"columns": list("abcd"), "data": [[1, 2, 3, 4]]}})
        types(put, "unsigned", "a,b\n1,2\n")
        for model, schema in SCHEMAS.items():
            scale = {"scalars": 3, "single": 2}.get(model, 1)
            clean_tables(put, rng, model, schema, 60 * scale)
            dirty_tables(put, rng, model, schema, 60 * scale)
            files(put, rng, model, schema, 10 * scale)
        for _ in range(40):
            dirty_tables(put, rng, "unsigned", SCHEMAS["pipeline"], 2)
        kinds(put, "forms", list(scoring_models.ANSWERS))
        kinds(put, "faults", ["print", "recursion", "value", "key", "memory", "stop", "os", "runtime", "zero", "mlflow", "members", "bad members"]
              + ["mlflow:" + c for c in ["BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE", "MALFORMED_REQUEST", "CANCELLED", "ABORTED",
                                         "RESOURCE_CONFLICT", "PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "REQUEST_LIMIT_EXCEEDED"]])
        params(put, rng, "params")
        llm(put, rng, "chat")
        llm(put, rng, "prompt")
        llm(put, rng, "unsigned")
        hints(put, "words")
        hints(put, "people")
        tensors(put, rng, "tensor", {"": [4]}, False, 75)
        tensors(put, rng, "cube", {"": [2, 2]}, True, 75)
        tensors(put, rng, "tensors", {"p": [2], "q": []}, True, 75)
        odd(put, rng)
    print(put.count)


if __name__ == "__main__":
    main()
