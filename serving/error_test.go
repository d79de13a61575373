package serving_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"loadline.dev/loadline/serving"
)

func TestErrorReadsAsASentence(t *testing.T) {
	err := fmt.Errorf("deploy: %w", &serving.Error{Op: "fetch model", Subject: "iris", Kind: serving.NotFound, Err: io.EOF})
	if !errors.Is(err, serving.NotFound) || errors.Is(err, serving.Busy) || !errors.Is(err, io.EOF) {
		t.Errorf("kinds of %v are wrong", err)
	}
	if got, want := err.Error(), "deploy: fetch model: iris: not found: EOF"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if k := serving.KindOf(io.EOF); k != serving.Internal {
		t.Errorf("KindOf(io.EOF) = %v", k)
	}
}
