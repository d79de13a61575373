// Package engines holds the test that tries every estimator the native engine
// is for, and writes the table in docs/engines.md. It has no code of its own.
package engines
