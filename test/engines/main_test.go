package engines

import (
	"os"
	"testing"

	"loadline.dev/loadline/internal/sandbox"
)

// This binary is the launcher of the sandbox too, as the product is.
func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}
