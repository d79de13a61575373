// Package contract holds tests that ask what clients and MLflow itself would
// ask, and compare. It has no code of its own; see the tests.
package contract
