package service

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"commissaire/api/authentication"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/users"
)

// configured is a service on a store of its own that one user, admin, may ask.
func configured(t *testing.T, storeURL string) (c config.Config, password string) {
	t.Helper()
	t.Setenv("TEST_MASTER_KEY", strings.Repeat("k", 32))
	admin, password, err := users.New(authentication.Admin)
	if err != nil {
		t.Fatal(err)
	}
	c = config.Defaults(true)
	c.ListenPort, c.Store, c.Credentials.MasterKey = 0, storeURL, "env:TEST_MASTER_KEY"
	c.AuthenticationPlugins = []config.Plugin{{Name: "httpbasicauth", Users: map[string]authentication.User{"admin": admin}}}
	return c, password
}

// ask makes a request as admin, and decodes the answer.
func ask(t *testing.T, method, url, password string, into any) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("admin", password)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if into != nil {
		if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	return answer.StatusCode
}

func TestAServiceGoesOnWithWhatAnEarlierOneRecorded(t *testing.T) {
	c, password := configured(t, "sqlite:"+t.TempDir())
	for start := range 2 {
		s, err := Open(t.Context(), c, false, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		api := s.Endpoint() + "/api/v0"
		if start == 0 && ask(t, http.MethodPut, api+"/cluster/web", password, nil) != http.StatusCreated {
			t.Error("the cluster was not created")
		}
		var clusters []string
		if code := ask(t, http.MethodGet, api+"/clusters", password, &clusters); code != http.StatusOK || len(clusters) != 1 {
			t.Errorf("start %d: %d, the clusters are %v", start, code, clusters)
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("start %d: %v", start, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("start %d: %v", start, err)
		}
	}
}

func TestStatusSaysWhatAServiceIs(t *testing.T) {
	c, password := configured(t, "memory:")
	c.Instance = "east-1"
	s, err := Open(t.Context(), c, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }() // it was never run
	var status map[string]any
	if code := ask(t, http.MethodGet, s.Endpoint()+"/api/v0/status", password, &status); code != http.StatusOK {
		t.Fatalf("answered %d", code)
	}
	for key, want := range map[string]any{
		"version": "0.1.0-dev", "store": "memory", "instance": "east-1", "leads": false, "age": 0.0, "lag": 0.0, "log_position": 0.0, "view_position": 0.0,
	} {
		if status[key] != want {
			t.Errorf("%s is %v, want %v", key, status[key], want)
		}
	}
}

func TestWhatCannotBeServedSafelyIsNotOpened(t *testing.T) {
	for want, change := range map[string]func(*config.Config){
		"no master key":       func(c *config.Config) { c.Credentials.MasterKey = "" },
		"nobody could log in": func(c *config.Config) { c.ListenInterface, c.AuthenticationPlugins = "0.0.0.0", nil },
		"in the clear":        func(c *config.Config) { c.ListenInterface = "0.0.0.0" },
		"no private key": func(c *config.Config) {
			c.SSH.Jump = config.Jump{Address: "gate", Port: 22, User: "core", Key: "env:TEST_MASTER_KEY", HostKey: "SHA256:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxw"}
		},
	} {
		c, _ := configured(t, "memory:")
		change(&c)
		if _, err := Open(t.Context(), c, false, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q in it", err, want)
		}
	}
}
