package ssh

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"commissaire/commands/process"
	"commissaire/domain/event"

	"mvdan.cc/sh/v3/syntax"
)

func TestProfilesOfASite(t *testing.T) {
	for text, want := range map[string]string{
		`{"name":"podman","steps":[{"name":"install podman","skip_ostree":true,"packages":["podman"]},
			{"name":"socket","file":{"path":"/etc/x","mode":"0644","content":"{{.EtcdURL}}"}},
			{"name":"start","services":["podman.socket"]}]}`: "",
		`{"steps":[]}`:                        "it has no name",
		`{"name":"x","step":[]}`:              "unknown field",
		`{"name":"x","steps":[{"name":"a"}]}`: "step 1 (a): it must have exactly one of",
		`{"name":"x","steps":[{"command":"true","services":["x"]}]}`:                              "exactly one of",
		`{"name":"x","steps":[{"packages":["-y"]}]}`:                                              `"-y" is no name of a package`,
		`{"name":"x","steps":[{"file":{"path":"etc/x","mode":"0644"}}]}`:                          "no absolute path",
		`{"name":"x","steps":[{"file":{"path":"/etc/x","mode":"rw"}}]}`:                           "no mode",
		`{"name":"x","steps":[{"file":{"path":"/etc/x","mode":"644","content":"{{.Nothing}}"}}]}`: "fill in /etc/x",
		`{"name":"x","steps":[{"file":{"path":"/etc/x","mode":"644","content":"{{if}}"}}]}`:       "read the template of /etc/x",
	} {
		path := filepath.Join(t.TempDir(), "profile.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := LoadProfile(path)
		switch {
		case want == "" && (err != nil || len(p.Steps) != 3):
			t.Errorf("%+v, %v", p, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := LoadProfile("/nonexistent/profile.json"); err == nil {
		t.Error("a missing file is a profile")
	}
	for name, want := range map[string]string{"": "flannel-docker", "flannel-docker": "flannel-docker", "none": "none"} {
		if p, err := LoadProfile(name); err != nil || p.Name != want {
			t.Errorf("%q is %s, %v", name, p.Name, err)
		}
	}
	if err := FlannelDocker.check(); err != nil {
		t.Error(err)
	}
}

func TestTheRepositoriesOfRHEL7AreForRHEL7(t *testing.T) {
	step := FlannelDocker.Steps[0]
	for _, c := range []struct {
		facts event.Facts
		want  bool
	}{
		{event.Facts{OS: "rhel", OSRelease: "rhel 7.9"}, true},
		{event.Facts{OS: "rhel", OSRelease: "rhel 7"}, true},
		{event.Facts{OS: "rhel", OSRelease: "rhel 9.4"}, false},
		{event.Facts{OS: "rhel", OSRelease: "rhel 70"}, false},
		{event.Facts{OS: "centos", OSRelease: "centos 7"}, false},
		{event.Facts{OS: "rhel", OSRelease: "rhel 7.9", OSTree: true}, false},
	} {
		if got := step.applies(process.Bootstrap{Facts: c.facts}); got != c.want {
			t.Errorf("%+v: %v", c.facts, got)
		}
	}
}

func TestTheScriptsArePOSIX(t *testing.T) {
	scripts := []string{Script, services}
	for _, f := range families {
		for _, t := range f.tools {
			scripts = slices.AppendSeq(slices.AppendSeq(scripts, maps.Values(t.upgrade)), maps.Values(t.deploy))
			if t.install != "" {
				scripts = append(scripts, t.packages())
			}
		}
	}
	for _, script := range scripts {
		parsed, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(script), "")
		if err != nil {
			t.Fatal(err)
		}
		syntax.Walk(parsed, func(node syntax.Node) bool {
			if r, ok := node.(*syntax.Redirect); ok && r.N != nil && r.N.Value > "2" {
				t.Errorf("line %d redirects %s", r.Pos().Line(), r.N.Value)
			}
			return true
		})
	}
}
