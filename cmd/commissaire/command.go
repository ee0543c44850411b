package main

import (
	"encoding/json"
	"io"
)

// printJSON prints a value for programs and people.
func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
