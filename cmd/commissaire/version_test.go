package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestTheVersionIsPrinted(t *testing.T) {
	printed := func(arguments ...string) (string, error) {
		cmd := versionCommand()
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(arguments)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	text, err := printed()
	if err != nil || !strings.HasPrefix(text, "commissaire ") || !strings.Contains(text, runtime.Version()) {
		t.Errorf("%s, %v", text, err)
	}
	text, err = printed("-o", "json")
	var build map[string]any
	if err != nil || json.Unmarshal([]byte(text), &build) != nil {
		t.Fatalf("%s, %v", text, err)
	}
	if keys := slices.Sorted(maps.Keys(build)); !slices.Equal(keys, []string{"commit", "date", "go", "modified", "platform", "version"}) {
		t.Errorf("it has %v", keys)
	}
	if build["version"] == "" || build["go"] != runtime.Version() || build["platform"] != runtime.GOOS+"/"+runtime.GOARCH {
		t.Errorf("it is %v", build)
	}
	if _, err := printed("-o", "yaml"); err == nil || !strings.Contains(err.Error(), "use text or json") {
		t.Errorf("as yaml: %v", err)
	}
}
