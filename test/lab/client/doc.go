// Command client runs in the client's namespace. It opens connections until it gets SIGTERM or SIGINT (or -count is reached)
// and prints a report as JSON, its only output but the line "ready".
//
//	client flow -target ADDR:PORT [-target ...] -rate N [-count N] [-timeout D]
//	client hold -target ADDR:PORT [-target ...] -count N [-timeout D]
package main
