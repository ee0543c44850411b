package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func none(string) (string, bool) { return "", false }

func TestTheCommandLineWinsOverTheEnvironmentOverTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "conf")
	text := `{"listen_interface":"127.0.0.3","listen-port":1,"store":"sqlite:file","watch":{"interval":30,"misses":5}}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := func(name string) (string, bool) {
		value, ok := map[string]string{"COMMISSAIRE_LISTEN_PORT": "2", "COMMISSAIRE_STORE": "sqlite:environment", "COMMISSAIRE_WATCH_INTERVAL": "90s"}[name]
		return value, ok
	}
	c, err := loadConfig(path, nil, environment, map[string]any{"store": "sqlite:line"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.ListenInterface != "127.0.0.3" || c.ListenPort != 2 || c.Store != "sqlite:line" || time.Duration(c.Watch.Interval) != 90*time.Second || c.Watch.Misses != 5 || c.Watch.Concurrency != 64 {
		t.Errorf("got %+v", c)
	}
}

func TestWhatCannotBeMeantIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{"listen-prot":1}`:             `"listen-port"`,
		`{"watch":{"intervall":1}}`:     `"watch.interval"`,
		`{"listen-port":70000}`:         "listen-port must be",
		`{"store":"postgres:x"}`:        "store must be",
		`{"store":"sqlite:"}`:           "needs a directory",
		`[]`:                            "JSON object",
		`{"watch":{"interval":"soon"}}`: "soon",
		`{"tls-clientverifyfile":"x"}`:  "tls-pemfile",
		`{"authentication-plugins":[{"name":"keystone"}]}`: "httpbasicauth",
	} {
		_, err := loadConfig("-", strings.NewReader(text), none, nil, false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want something about %s", text, err, want)
		}
	}
	if _, err := loadConfig(filepath.Join(t.TempDir(), "missing"), nil, none, nil, false); err == nil {
		t.Error("a named file that is missing is no error")
	}
}

func TestSecretsAreMasked(t *testing.T) {
	text := `{"authentication-plugins":[{"name":"httpbasicauth","users":{"ann":{"hash":"MARKER"}}}],"credentials":{"master-key":"exec:MARKER"}}`
	c, err := loadConfig("-", strings.NewReader(text), none, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := json.Marshal(c.masked())
	if err != nil || strings.Contains(string(shown), "MARKER") || !strings.Contains(string(shown), "ann") {
		t.Errorf("%v: %s", err, shown)
	}
}

func TestNobodyIsLetInFromTheNetworkByMistake(t *testing.T) {
	open := defaults(false)
	if err := safeToListen(open, false); err == nil {
		t.Error("listens to the network without users")
	}
	open.AuthenticationPlugins = []Plugin{{Name: "httpbasicauth", FilePath: "users.json"}}
	if err := safeToListen(open, false); err == nil {
		t.Error("listens to the network without TLS")
	}
	open.TLSPEMFile = "tls.pem"
	if err := safeToListen(open, false); err != nil {
		t.Error(err)
	}
	if err := safeToListen(defaults(true), true); err != nil {
		t.Error(err)
	}
	if err := apart("file:/srv/store/key", "/srv/store"); err == nil {
		t.Error("the master key may lie in the store")
	}
}
