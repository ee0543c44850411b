// Package version knows which build of the program this is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// Version is set by the linker when a release is built.
var Version = "0.1.0-dev"

// Build is what is known of a build of the program.
type Build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`   // "": not known
	Modified bool   `json:"modified"` // the files were not all as in the commit
	Date     string `json:"date"`     // of the commit, RFC 3339 in UTC; "": not known
	Go       string `json:"go"`
	Platform string `json:"platform"` // operating system and architecture, as linux/amd64
}

// Read tells about this build. Commit and date are there where it was built in a
// checkout with git.
func Read() Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return read(info)
}

func read(info *debug.BuildInfo) Build {
	b := Build{Version: Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			b.Commit = setting.Value
		case "vcs.modified":
			b.Modified = setting.Value == "true"
		case "vcs.time":
			if t, err := time.Parse(time.RFC3339, setting.Value); err == nil {
				b.Date = t.UTC().Format(time.RFC3339)
			}
		}
	}
	return b
}

// String says it in lines.
func (b Build) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "commissaire %s\n", b.Version)
	commit := b.Commit
	if b.Modified {
		commit += ", modified"
	}
	for _, line := range []struct{ what, value string }{{"commit", commit}, {"date", b.Date}, {"go", b.Go}, {"platform", b.Platform}} {
		if line.value != "" {
			fmt.Fprintf(&text, "%-9s %s\n", line.what, line.value)
		}
	}
	return text.String()
}
