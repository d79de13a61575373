package pyenv

import (
	"os"
	"testing"

	"loadline.dev/loadline/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Main() // this binary is also the launcher of confined programs
	if order := os.Getenv(buildVar); order != "" {
		os.Exit(buildAsChild(order))
	}
	os.Exit(m.Run())
}
