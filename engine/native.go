package engine

import (
	"fmt"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// converted are the loader modules of models that have a converter.
var converted = map[string]bool{"mlflow.sklearn": true, "mlflow.xgboost": true, "mlflow.lightgbm": true, "mlflow.catboost": true,
	"mlflow.onnx": true}

// Convertible says why a model cannot run natively, as far as its MLmodel file
// shows; nil is worth a try.
func Convertible(m mlmodel.Model) error {
	switch {
	case m.PyFunc == nil:
		return scorable(m, Native)
	case !converted[m.PyFunc.LoaderModule]:
		return fmt.Errorf("models of %s have no converter", m.PyFunc.LoaderModule)
	case m.PyFunc.Code != "":
		return fmt.Errorf("it brings code of its own")
	case m.Signature == nil || m.TypeHints:
		return fmt.Errorf("it has no signature of columns or tensors, so its requests have no types")
	}
	return nil
}

// native runs what the model was converted to in the agent's own process. The
// worker stays in reserve for requests that are not for it.
func native(f Facts) (Choice, error) {
	if f.Native == nil {
		return Choice{}, refuse("engine native needs a converted model")
	}
	c, err := python(f)
	c.Engine, c.Why = Native, f.Evidence
	c.Launch.Protocol, c.Launch.Native = serving.Onnx, f.Native
	return c, err
}
