package version

import (
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestABuildSaysOfWhichCommitItIs(t *testing.T) {
	b := read(&debug.BuildInfo{Settings: []debug.BuildSetting{
		{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "0123abc"}, {Key: "vcs.time", Value: "2026-11-28T13:00:00+02:00"}, {Key: "vcs.modified", Value: "true"},
	}})
	want := Build{
		Version: "0.1.0-dev", Commit: "0123abc", Modified: true, Date: "2026-11-28T11:00:00Z",
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if b != want {
		t.Errorf("%+v, want %+v", b, want)
	}
	if text := b.String(); !strings.HasPrefix(text, "commissaire 0.1.0-dev\ncommit    0123abc, modified\ndate      2026-11-28T11:00:00Z\n") {
		t.Errorf("it says %s", text)
	}
}

func TestABuildWithoutGitSaysNothingOfACommit(t *testing.T) {
	b := read(&debug.BuildInfo{})
	if b.Commit != "" || b.Modified || b.Date != "" || b.Version == "" || strings.Contains(b.String(), "commit") {
		t.Errorf("%+v", b)
	}
}
