package registry

import (
	"errors"
	"testing"

	"loadline.dev/loadline/serving"
)

func TestAFolderOfADistantServerIsNotOurs(t *testing.T) {
	for _, uri := range []string{"/srv/mlruns/1", "file:///srv/mlruns/1"} {
		if got, err := located(uri, "mlflow.example.com", true); err != nil || got != uri {
			t.Errorf("%s: got %q, %v", uri, got, err)
		}
		if got, err := located(uri, "mlflow.example.com", false); !errors.Is(err, serving.Invalid) || serving.FixOf(err) == "" {
			t.Errorf("%s: got %q, %v", uri, got, err)
		}
	}
}
