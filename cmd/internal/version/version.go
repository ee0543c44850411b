// Package version knows which build of the program this is.
package version

// Version is set when a release is built.
var Version = "0.1.0-dev"
