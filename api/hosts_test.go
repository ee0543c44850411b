package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"commissaire/domain/event"
)

func TestAFingerprintOfAHostKeyIsCheckedWhole(t *testing.T) {
	s := newService(t)
	put := func(path, body string) (int, string) {
		t.Helper()
		w := httptest.NewRecorder()
		s.server.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/api/v0"+path, strings.NewReader(body)))
		return w.Code, w.Body.String()
	}
	const digits = "6da7e39c3c1d0c7c4d7c2f3fdf2d1ebb0c4dbf6bb4b70b3e91f1ab9dcb5a3e6f"
	const form = "SHA256:bafjnDwdDHxNfC8/3y0euwxNv2u0tws+kfGrnctaPm8"
	for i, given := range []string{form, form + "=", digits, strings.ToUpper(digits), "SHA256:" + digits} {
		host := "/host/10.0.0." + string(rune('1'+i))
		if status, answer := put(host, `{"ssh_priv_key":"a2V5","ssh_host_key":"`+given+`"}`); status != 201 {
			t.Errorf("%s: %d %s", given, status, answer)
		}
		if status, answer := put(host+"/hostkey", `{"fingerprint":"`+given+`"}`); status != 409 {
			t.Errorf("%s, which was not shown: %d %s", given, status, answer)
		}
	}
	added := 0
	for batch, err := range s.Follow(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range batch {
			if e, ok := r.Event.(event.HostAdded); ok {
				if added++; e.HostKey != form {
					t.Errorf("recorded as %s", e.HostKey)
				}
			}
		}
		if added == 5 {
			break
		}
	}
	for _, given := range []string{"SHA256:x", "SHA256:", form + "x", form[:49], digits[:62], digits + "0", "MD5:" + digits[:32], "x", " " + form, strings.ReplaceAll(form, "/", "_")} {
		for path, field := range map[string]string{"/host/10.0.0.9": "ssh_host_key", "/host/10.0.0.1/hostkey": "fingerprint"} {
			status, answer := put(path, `{"`+field+`":"`+given+`"}`)
			var problem struct{ Detail string }
			if json.Unmarshal([]byte(answer), &problem) != nil || status != 400 || !strings.Contains(problem.Detail, field+": must be a SHA-256 fingerprint") {
				t.Errorf("%s as %s: %d %s", given, field, status, answer)
			}
		}
	}
}
