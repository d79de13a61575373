// Package laws checks the shape of the repository. A rule that lives only in
// a document is broken quietly; here it is broken in review, in the same
// commit as the code that wants it changed.
//
// Its tests are all there is to it. They parse the source themselves rather
// than ask the go command: the test cache does not see what a child process
// read, and would serve a stale pass.
package laws
