package serving

// A Native says how a model runs on ONNX Runtime, without Python, and which
// requests it may be asked: those about which it was shown to answer as MLflow
// does. All others go to the process that [Launch.Argv] starts.
type Native struct {
	Library   string // absolute path of ONNX Runtime's shared library
	Model     string // absolute path of the ONNX file
	Precision string // of its numbers: "float32", "float64", or "" as the model came

	// Schema and Params are the model's input and params schemas in MLflow's
	// JSON text, MLflow the version in its environment.
	Schema, Params string
	MLflow         string

	Inputs []NativeInput // the ONNX file's, in its order
	Answer NativeAnswer
	Guards []NativeGuard // at most one for each column; a column without one takes neither null nor text
}

// A NativeInput says which columns of a request become one input tensor.
type NativeInput struct {
	Name string
	Kind string // numpy's letter: "f", "d", "q", "i", "?", or "s" for text

	// Columns are its second dimension, in order. A model with a tensor
	// signature has one input of one column, whose shape the tensor has.
	Columns []string
	Flat    bool // one column without a second dimension
}

// A NativeAnswer says which output tensors are the answer, and how it is written.
type NativeAnswer struct {
	Output string // the name of the one that is the answer
	Kind   string // numpy's letter of what MLflow's answer holds

	// Columns is the length of each of its rows, which are lists then. Zero is
	// a list of scalars.
	Columns int

	// Records, instead of Output, are written as a list of objects with a member
	// for each of these outputs; Arrays as one object of nested lists.
	Records, Arrays []NativeOutput `json:",omitempty"`
}

// A NativeOutput is one of several that make an answer.
type NativeOutput struct {
	Name string
	Kind string // as in [NativeAnswer]
}

// A NativeGuard says what of one column the model may be asked.
type NativeGuard struct {
	Column string
	Nulls  bool // null, in a column of numbers

	// Within bounds the absolute value of numbers. Zero is what float32 holds.
	Within float64

	// AnyText says that every text may be asked; else only those in Known.
	AnyText bool
	Known   []string
}
