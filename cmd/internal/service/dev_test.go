package service

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"

	"commissaire/adapters/credentials"
	"commissaire/cmd/internal/config"
)

func TestDevelopmentMakesAUserThatCurlCanBe(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := makeMasterKey(); err != nil {
		t.Fatal(err)
	}
	key, err := credentials.MasterKey(t.Context(), "file:"+config.DevMasterKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := makeMasterKey(); err != nil { // again: that of before stays
		t.Fatal(err)
	}
	if again, err := credentials.MasterKey(t.Context(), "file:"+config.DevMasterKey); err != nil || string(again) != string(key) {
		t.Errorf("the master key became another, %v", err)
	}

	server := httptest.NewUnstartedServer(nil)
	defer server.Close()
	endpoint := "http://" + server.Listener.Addr().String()
	plugin, password, err := makeUser(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	stack, err := authenticator([]config.Plugin{plugin}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if who, err := stack.Authenticate(r); err != nil || who.Name != "admin" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	server.Start()
	for _, name := range []string{"master-key", "commctl.json", "curlrc"} {
		if info, err := os.Stat(config.DevDir + "/" + name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	text, err := os.ReadFile(config.DevDir + "/commctl.json")
	if err != nil {
		t.Fatal(err)
	}
	var client struct{ Endpoint, Username, Password string }
	if err := json.Unmarshal(text, &client); err != nil || client.Endpoint != endpoint || client.Username != "admin" || client.Password != password {
		t.Errorf("commctl.json: %+v, %v", client.Endpoint, err)
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed: var/curlrc is not tried")
	}
	if out, err := exec.CommandContext(t.Context(), "curl", "--fail", "-K", config.DevDir+"/curlrc", endpoint).CombinedOutput(); err != nil {
		t.Errorf("curl: %v: %s", err, out)
	}
}
