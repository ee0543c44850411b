package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// puts are the paths of all routes that take a body.
func puts(t *testing.T) (paths []string) {
	t.Helper()
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		if item.Put == nil {
			continue
		}
		if path = strings.Replace(path, "/projections/{name}", "/projections/all", 1); strings.Contains(path, "/operation/") {
			path = strings.Replace(path, "{id}", "0b7c1f5e-8a50-4ac6-9c5a-5c7a4d1b2f10", 1)
		}
		paths = append(paths, strings.NewReplacer("{name}", "n", "{host}", "10.0.0.1", "{address}", "10.0.0.1").Replace(path))
	}
	if len(paths) < 15 {
		t.Fatalf("%d routes only: %v", len(paths), paths)
	}
	return paths
}

// TestAKeyGivenTwiceIsRefusedInEveryBody also has keys that are read as one by who
// does not tell upper from lower case.
func TestAKeyGivenTwiceIsRefusedInEveryBody(t *testing.T) {
	s := newService(t)
	for _, path := range puts(t) {
		for body, names := range map[string]string{
			`{"colour":1,"colour":2}`:                           "colour",
			`{"colour":1,"colour":1}`:                           "colour",
			`{"colour":1,"a":{},"Colour":1}`:                    "Colour",
			`{"colour":1,"\u0063olour":2}`:                      "colour",
			`{"options":{"a":[0,{"deep":{"k":1,"k":2}}]}}`:      "options.a.1.deep.k",
			`{"options":{"a":{"b":1},"A":{"b":1}}}`:             "options.A",
			`{"health":{"tcp":1,"TCP":2}}`:                      "health.TCP",
			`{"kind":1,"` + "\u212a" + `ind":2}`:                "\u212aind", // the sign of Kelvin
			`{"only":["10.0.0.1"],"only":"failed"}`:             "only",
			`{"a":{"x":1},"b":{"x":1},"c":[{"x":1},{"x":1}]}`:   "", // each once
			`{"a":"a","b":["a","a"],"c":{"c":{"c":1}},"d":"D"}`: "",
		} {
			w, problem := s.do(http.MethodPut, path, body)
			fields, _ := json.Marshal(problem["errors"])
			if refused := w.Code == http.StatusBadRequest && strings.Contains(string(fields), `"is given twice`); refused != (names != "") {
				t.Errorf("PUT %s %s: %d %s", path, body, w.Code, w.Body)
			} else if refused && !strings.Contains(string(fields), `"field":"`+names+`"`) {
				t.Errorf("PUT %s %s names another key: %s", path, body, fields)
			}
		}
	}
}

func TestABodyIsValidUTF8(t *testing.T) {
	s := newService(t)
	for _, path := range puts(t) {
		for _, body := range []string{"{\"a\":\"\xff\"}", "{\"\xc3\":1}", "\xef\xbb\xbf{}", `{"a":"\ud800"}`, `{"\udc00":1}`, `{"a":"\udc00\ud800"}`, "{\"a\":\"\xed\xa0\x80\"}", "{}\xff", "{} {}"} {
			if w, _ := s.do(http.MethodPut, path, body); w.Code != http.StatusBadRequest {
				t.Errorf("PUT %s %q: %d %s", path, body, w.Code, w.Body)
			}
		}
	}
}

func TestFreeJSONIsBounded(t *testing.T) {
	nested := func(levels int) string {
		return `{"options":` + strings.Repeat(`{"a":`, levels-1) + `{}` + strings.Repeat(`}`, levels-1) + `}`
	}
	lists := func(levels int) string {
		return `{"options":{"a":` + strings.Repeat(`[`, levels-1) + strings.Repeat(`]`, levels-1) + `}}`
	}
	long := func(n int) string { return `{"options":{"a":"` + strings.Repeat("x", n-len(`{"a":""}`)) + `"}}` }
	for name, c := range map[string]struct {
		body  string
		bound string // "": it is taken
	}{
		"32 objects":       {nested(32), ""},
		"33 objects":       {nested(33), "32"},
		"32 lists":         {lists(32), ""},
		"33 lists":         {lists(33), "32"},
		"10,000 objects":   {nested(10_000), "32"},
		"100,000 lists":    {lists(100_000), "32"},
		"64 KiB":           {long(64 << 10), ""},
		"64 KiB and 1":     {long(64<<10 + 1), "65536"},
		"blanks":           {`{"options":{` + strings.Repeat(" ", 64<<10) + `}}`, "65536"},
		"nested elsewhere": {strings.Replace(nested(33), "options", "colour", 1), "32"},
	} {
		s := newService(t)
		w, problem := s.do(http.MethodPut, "/api/v0/network/n", c.body)
		detail, _ := problem["detail"].(string)
		if taken := w.Code == http.StatusCreated; taken != (c.bound == "") || !taken && (w.Code != http.StatusBadRequest || !strings.Contains(detail, c.bound)) {
			t.Errorf("%s: %d %.200s", name, w.Code, w.Body)
		}
	}
}

// TestARefusalIsShortWhateverItRepeats sends long text wherever some can be sent.
func TestARefusalIsShortWhateverItRepeats(t *testing.T) {
	s := newService(t)
	s.put("/cluster/c", "")
	for i := range 300 {
		s.put(fmt.Sprint("/host/a-host-with-a-name-of-some-length-", i, ".example.com"), `{"ssh_priv_key":"`+aKey+`","cluster":"c"}`)
	}
	long := strings.Repeat("x<\u00e9\\n", 50_000)
	text := `"` + long + `"`
	many := func(one string, n int) string { return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]" }
	refused := func(method, path, body string, header ...string) {
		t.Helper()
		w, _ := s.do(method, path, body, header...)
		if w.Code < 400 || w.Code >= 500 || w.Body.Len() > 16<<10 {
			t.Errorf("%s %.100s %.100s: %d, %d bytes: %.300s", method, path, body, w.Code, w.Body.Len(), w.Body)
		}
	}
	for _, path := range puts(t) {
		refused(http.MethodPut, path, `{`+text+`:1,`+text+`:1}`)
		refused(http.MethodPut, path, `{"a":{`+text+`:`+strings.Repeat("[", 50)+strings.Repeat("]", 50)+`}}`)
	}
	for path, bodies := range map[string][]string{
		"/cluster/c": {`{"container_manager":` + text + `}`, `{"name":` + text + `}`},
		"/cluster/c/hosts": {
			`{"old":[` + text + `],"new":[]}`, `{"old":[],"new":[]}`, `{"old":` + many(`"10.0.0.1"`, 70_000) + `,"new":[]}`,
		},
		"/cluster/c/upgrade": {
			`{` + text + `:1}`, `{"health":{"command":` + text + `}}`, `{"health":{"http":"http://:1/` + long + `"}}`, `{"window":{"days":[` + text + `]}}`,
			`{"window":{"days":` + many(`"mon"`, 9) + `,"from":"01:00","to":"02:00","zone":"UTC"}}`,
			`{"only":[` + text + `],"order":[` + text + `],"batches":` + many(text, 2) + `,"max_unavailable":` + text + `,"reboot":` + text + `}`,
			`{"only":["` + strings.Repeat("a.", 100) + `a"]}`,
		},
		"/cluster/c/deploy":   {`{"version":` + text + `}`},
		"/network/n":          {`{"type":` + text + `}`, `{"name":` + text + `}`, `{"type":"flannel_server","options":{"address":"` + strings.Repeat("a", 60_000) + `"}}`},
		"/containermanager/m": {`{"type":` + text + `}`, `{"options":{` + text[:60_000] + `":"x"}}`, `{"type":"trivial","options":{"` + strings.Repeat("a", 60_000) + `":"x"}}`},
		"/host/10.0.0.1":      {`{"remote_user":` + text + `}`, `{"cluster":` + text + `}`, `{"address":` + text + `}`, `{"ssh_host_key":` + text + `}`, `{"ssh_certificate":` + text + `}`},
	} {
		for _, body := range bodies {
			refused(http.MethodPut, "/api/v0"+path, body)
		}
	}
	refused(http.MethodPut, "/api/v0/host/"+strings.Repeat("a", 60_000), `{}`)
	refused(http.MethodPut, "/api/v0/cluster/"+strings.Repeat("%C3%A9", 20_000), `{}`)
	refused(http.MethodGet, "/api/v0/operations?host="+strings.Repeat("a", 60_000), "")
	refused(http.MethodGet, "/api/v0/clusters?at="+strings.Repeat("a", 60_000), "")
	refused(http.MethodPut, "/api/v0/cluster/d", "", "X-Commissaire-Reason", long)
	refused(http.MethodPut, "/api/v0/cluster/d", "", "X-Commissaire-Reason", strings.Repeat("a\xff", 400)) // longer than that as it is recorded
}
