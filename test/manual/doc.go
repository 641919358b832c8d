// Package manual holds README.md to what it is generated from: a table that stands between two marker lines there is
// written by the test of the package that knows, from its doc comments, so that manual and code cannot differ.
package manual
