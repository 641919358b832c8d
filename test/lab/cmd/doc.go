// Command cmd starts a lab for a person: it prints how to enter each host and what to try, and waits for Ctrl-C. It is what
// `make lab` runs. Everything is in package lab; this is flags and text.
package main
