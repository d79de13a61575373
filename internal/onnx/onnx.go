// Package onnx runs models with ONNX Runtime, a shared library that is loaded
// when it is needed and called without cgo.
//
// The library comes from the onnxruntime wheel in an environment that pyenv
// made, so its bytes are those of a lock's hash. It runs on the thread that
// calls it. What it does wrong in native code ends the process: whoever uses
// it lives in a process that serves one replica only.
package onnx
