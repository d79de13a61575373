package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"loadline.dev/loadline/test/harness"
)

// A model is one of the demo's models, as train.py describes it.
type model struct {
	Name    string   `json:"name"`
	ModelID string   `json:"model_id"`
	Dir     string   `json:"dir"`    // a downloaded copy, for MLflow's own server
	Bodies  []string `json:"bodies"` // requests that hold 200 random rows
}

// example is the request body that MLflow stored with the model.
func (m model) example() (string, error) {
	data, err := os.ReadFile(filepath.Join(m.Dir, "serving_input_example.json"))
	return string(data), err
}

// track starts MLflow's tracking server: SQLite, proxied artifacts.
func (s *story) track(ctx context.Context) (*harness.Server, error) {
	port, err := harness.FreePort()
	if err != nil {
		return nil, err
	}
	cmd := harness.Python(ctx, s.Python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--workers", "1",
		"--backend-store-uri", "sqlite:///"+filepath.Join(s.Dir, "mlflow.db"),
		"--serve-artifacts", "--artifacts-destination", filepath.Join(s.Dir, "artifacts"))
	return harness.Listen(ctx, cmd, port, "/health", filepath.Join(s.Dir, "mlflow.log"))
}

// train logs and registers the models and reads back what they are.
func (s *story) train(ctx context.Context, only ...string) ([]model, error) {
	out := filepath.Join(s.Dir, "models")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	args := append([]string{"-W", "ignore", filepath.Join(s.Root, "test/demo/train.py"), out, filepath.Join(s.Root, "test/env/model-requirements.txt")}, only...)
	cmd := harness.Python(ctx, s.Python, args...)
	cmd.Env = append(cmd.Env, "MLFLOW_TRACKING_URI="+s.tracking.URL)
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("train.py: %w:\n%s", err, text)
	}
	data, err := os.ReadFile(filepath.Join(out, "manifest.json"))
	if err != nil {
		return nil, err
	}
	var models []model
	return models, json.Unmarshal(data, &models)
}
