package config

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"commissaire/api/authentication"
)

// load reads a configuration file of this text.
func load(t *testing.T, text string, environment map[string]string, given map[string]any, dev bool) (Config, error) {
	t.Helper()
	return Load("-", strings.NewReader(text), environment, given, dev)
}

func mustLoad(t *testing.T, text string, environment map[string]string, given map[string]any, dev bool) Config {
	t.Helper()
	c, err := load(t, text, environment, given, dev)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCommandLineWinsOverEnvironmentOverFileOverDefault(t *testing.T) {
	file := `{"listen-port": 1, "ssh": {"attempts": 1}}`
	environment := map[string]string{"COMMISSAIRE_LISTEN_PORT": "2", "COMMISSAIRE_SSH_ATTEMPTS": "2"}
	given := map[string]any{"listen-port": 3}
	if c := mustLoad(t, `{}`, nil, nil, false); c.ListenPort != 8000 || c.ListenInterface != "0.0.0.0" || c.SSH.Attempts != 3 {
		t.Errorf("by default %+v", c)
	}
	if c := mustLoad(t, file, nil, nil, false); c.ListenPort != 1 || c.SSH.Attempts != 1 || c.SSH.RetryDelay != Duration(5*time.Second) {
		t.Errorf("with a file %+v", c)
	}
	if c := mustLoad(t, file, environment, nil, false); c.ListenPort != 2 || c.SSH.Attempts != 2 {
		t.Errorf("with an environment %+v", c)
	}
	if c := mustLoad(t, file, environment, given, false); c.ListenPort != 3 || c.SSH.Attempts != 2 {
		t.Errorf("with a command line %+v", c)
	}
}

func TestKeysMayBeWrittenInEveryWay(t *testing.T) {
	for _, text := range []string{
		`{"ssh": {"retry-delay": "1m30s", "at-once": 7}}`,
		`{"ssh": {"retry_delay": 90, "at_once": 7}}`,
		`{"ssh.retry-delay": 90.0, "ssh": {"at-once": 7}}`,
		`{"ssh.retry_delay": "90s", "ssh.at_once": 7, "ssh": null, "debug": null}`,
	} {
		for range 10 { // whatever the order of the keys
			if c := mustLoad(t, text, nil, nil, false); c.SSH.RetryDelay != Duration(90*time.Second) || c.SSH.AtOnce != 7 || c.SSH.Attempts != 3 {
				t.Fatalf("%s: %+v", text, c.SSH)
			}
		}
	}
}

func TestTheEnvironmentIsReadByType(t *testing.T) {
	c := mustLoad(t, `{}`, map[string]string{
		"COMMISSAIRE_STORE": "memory:", "COMMISSAIRE_TLS_PEMFILE": "123", "COMMISSAIRE_DEBUG": "true",
		"COMMISSAIRE_HOSTS_DENIED": `["10.0.0.0/8","2001:db8::/32"]`, "COMMISSAIRE_WATCH_INTERVAL": "2m",
		"COMMISSAIRE_CREDENTIALS_MASTER_KEY": "env:KEY",
		"COMMISSAIRE_AUTHENTICATION_PLUGINS": `[{"name":"httpbasicauth","filepath":"u.json"}]`,
	}, nil, false)
	if c.Store != "memory:" || c.TLSPEMFile != "123" || !c.Debug || c.Credentials.MasterKey != "env:KEY" ||
		!slices.Equal(c.Hosts.Denied, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}) ||
		c.Watch.Interval != Duration(2*time.Minute) || len(c.AuthenticationPlugins) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestEveryKeyHasAVariableOfItsOwn(t *testing.T) {
	var c Config
	fields, names := map[string]any{}, map[string]string{}
	addFields(fields, "", reflect.ValueOf(&c).Elem())
	for key := range fields {
		if other, taken := names[variable(key)]; taken {
			t.Errorf("%s and %s are both %s", key, other, variable(key))
		}
		names[variable(key)] = key
	}
	if len(names) < 20 || names["COMMISSAIRE_BOOTSTRAP_ETCD_URL"] != "bootstrap.etcd-url" {
		t.Errorf("the variables are %v", names)
	}
}

func TestAMisspeltVariableIsRefused(t *testing.T) {
	for name, nearest := range map[string]string{
		"COMMISSAIRE_LISTEN_PROT":          "COMMISSAIRE_LISTEN_PORT",
		"COMMISSAIRE_CREDENTIAL_MASTERKEY": "COMMISSAIRE_CREDENTIALS_MASTER_KEY",
		"COMMISSAIRE_ssh_at_once":          "COMMISSAIRE_SSH_AT_ONCE",
	} {
		_, err := load(t, `{}`, map[string]string{name: "VALUE"}, nil, false)
		if err == nil || !strings.Contains(err.Error(), "no variable "+name) || !strings.Contains(err.Error(), nearest) || strings.Contains(err.Error(), "VALUE") {
			t.Errorf("%s: %v; want %s named", name, err, nearest)
		}
	}
	if _, err := load(t, `{}`, map[string]string{"COMMISSAIRE_PORT": "8000"}, nil, false); err == nil {
		t.Error("COMMISSAIRE_PORT=8000 is taken for what Kubernetes sets")
	}
	mustLoad(t, `{"log": {"signing-key": "env:COMMISSAIRE_SIGNING"},
		"ssh": {"jump": {"address": "gate", "user": "core", "key": "env:COMMISSAIRE_JUMP", "host-key": "SHA256:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxw"}}}`,
		map[string]string{"COMMISSAIRE_SIGNING": "x", "COMMISSAIRE_JUMP": "x"}, nil, false)
	mustLoad(t, `{"credentials": {"master-key": "env:COMMISSAIRE_MASTER_KEY"}}`, map[string]string{
		"COMMISSAIRE_MASTER_KEY": "…", "COMMISSAIRE_TEST_ESDB": "esdb://", "PATH": "/bin", "COMMCTL_CONFIG": "c",
		// as Kubernetes sets them for a service named commissaire
		"COMMISSAIRE_SERVICE_HOST": "10.0.0.1", "COMMISSAIRE_SERVICE_PORT_HTTP": "80", "COMMISSAIRE_PORT": "tcp://10.0.0.1:80",
		"COMMISSAIRE_PORT_80_TCP_ADDR": "10.0.0.1",
	}, nil, false)
}

func TestALaterListReplacesAnEarlierOne(t *testing.T) {
	c := mustLoad(t, `{"authentication-plugins": [{"name":"httpbasicauth","users":{"mallory":{"hash":"x"}}}]}`,
		map[string]string{"COMMISSAIRE_AUTHENTICATION_PLUGINS": `[{"name":"httpbasicauth","filepath":"u.json"}]`}, nil, false)
	if p := c.AuthenticationPlugins; len(p) != 1 || p[0].FilePath != "u.json" || p[0].Users != nil {
		t.Errorf("the plugins are mixed: %+v", p)
	}
}

func TestDevChangesDefaultsOnly(t *testing.T) {
	c := mustLoad(t, `{}`, nil, nil, true)
	if c.ListenInterface != "127.0.0.1" || c.Store != "sqlite:var/store" || !c.Hosts.AllowLoopback || c.Credentials.MasterKey != "file:var/master-key" {
		t.Errorf("%+v", c)
	}
	c = mustLoad(t, `{"listen-interface":"192.0.2.1","hosts":{"allow-loopback":false}}`,
		map[string]string{"COMMISSAIRE_CREDENTIALS_MASTER_KEY": "env:KEY"}, map[string]any{"store": "memory:"}, true)
	if c.ListenInterface != "192.0.2.1" || c.Store != "memory:" || c.Hosts.AllowLoopback || c.Credentials.MasterKey != "env:KEY" {
		t.Errorf("%+v", c)
	}
	if off := mustLoad(t, `{}`, nil, nil, false); off.Credentials.MasterKey != "" || off.Hosts.AllowLoopback {
		t.Errorf("without --dev %+v", off)
	}
}

func TestOldFilesAreTaken(t *testing.T) {
	c := mustLoad(t, `{
		"listen_interface": "127.0.0.1", "listen_port": 8000, "tls_pemfile": "/a.pem", "tls_clientverifyfile": "/ca.pem",
		"authentication_plugins": [{"name": "commissaire_http.authentication.httpbasicauth",
			"users": {"a_b.c": {"hash": "h"}}}],
		"self_auths": ["^/api/v0/secrets"], "debug": true
	}`, nil, nil, false)
	p := c.AuthenticationPlugins
	if c.TLSPEMFile != "/a.pem" || !c.Debug || len(p) != 1 || p[0].shortName() != "httpbasicauth" || p[0].Users["a_b.c"].Hash != "h" {
		t.Errorf("%+v", c)
	}
}

func TestWhatCannotBeMeantIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		``:                                            "standard input must have a JSON object",
		`[]`:                                          "must have a JSON object",
		`{"listen-prot": 1}`:                          `the nearest is "listen-port"`,
		`{"shh": {"attempts": 1}}`:                    `no key "shh"`,
		`{"ssh": {"atempts": 1}}`:                     `the nearest is "ssh.attempts"`,
		`{"ssh": {"attempts": {"x": 1}}}`:             "ssh.attempts: it is a object and must be a int",
		`{"ssh": 1}`:                                  "ssh must be an object",
		`{"ssh": {"attempts": "many"}}`:               "ssh.attempts: it is a string and must be a int",
		`{"ssh": {"attempts": 0}}`:                    "ssh.attempts",
		`{"ssh": {"dial-timeout": "10"}}`:             "ssh.dial-timeout: \"10\" is no duration",
		`{"ssh": {"dial-timeout": true}}`:             "ssh.dial-timeout: true is no duration",
		`{"ssh": {"dial-timeout": 1e30}}`:             "is no duration",
		`{"ssh": {"dial-timeout": -1}}`:               "ssh.dial-timeout",
		`{"ssh.attempts": 1, "ssh": {"attempts": 2}}`: "ssh.attempts is there twice",
		`{"listen-port": 1, "listen_port": 1}`:        "listen-port is there twice",
		`{"listen-port": 65536}`:                      "listen-port",
		`{"listen-port": 80.5}`:                       "listen-port",
		`{"ssh": {"jump": {"user": "core"}}}`:         "ssh.jump needs an address",
		`{"ssh": {"jump": {"address": "gate"}}}`:      "ssh.jump needs a user, a key",
		`{"ssh.jump.address": "gate", "ssh.jump.user": "core", "ssh.jump.key": "file:/k", "ssh.jump.host-key": "MD5:00"}`:   "ssh.jump.host-key must be a SHA-256 fingerprint",
		`{"ssh.jump.address": "gate", "ssh.jump.user": "core", "ssh.jump.key": "file:/k", "ssh.jump.host-key": "SHA256:x"}`: "ssh.jump.host-key must be a SHA-256 fingerprint",
		`{"ssh": {"jump": {"port": 0}}}`:                                                      "ssh.jump.port",
		`{"ssh": {"jump": "gate"}}`:                                                           "ssh.jump must be an object",
		`{"ssh": {"known-host": "/k"}}`:                                                       `the nearest is "ssh.known-hosts"`,
		`{"hosts": {"denied": ["10.0.0.1/33"]}}`:                                              "hosts.denied",
		`{"hosts": {"denied": "10.0.0.0/8"}}`:                                                 "hosts.denied",
		`{"watch": {"interval": 0}}`:                                                          "watch.interval",
		`{"operations": {"reboot-timeout": "1s"}}`:                                            "operations.reboot-timeout",
		`{"store": "sqlite:"}`:                                                                "sqlite:/var/lib/commissaire",
		`{"store": "postgres://a:PASSWORD@b"}`:                                                "store must be",
		`{"store": "esdb:host"}`:                                                              "esdb://HOST:2113",
		`{"store": "esdb://a:PASSWORD@b"}`:                                                    "store esdb:// needs credentials.keys: file:DIR",
		`{"store": "esdb+discover://b", "credentials": {"keys": "/k"}}`:                       "credentials.keys must be file:DIR or exec:COMMAND",
		`{"store": "esdb://b", "credentials": {"keys": "env:K"}}`:                             "credentials.keys must be",
		`{"store": "esdb://b", "credentials": {"keys": "file:"}}`:                             "credentials.keys must be",
		`{"credentials": {"keys": "file:/k"}}`:                                                "credentials.keys is for a store esdb://",
		`{"store": "memory:", "credentials": {"keys": "file:/k"}}`:                            "credentials.keys is for a store esdb://",
		`{"instance": "a b"}`:                                                                 "instance must have",
		`{"bootstrap": {"etcd-client-cert": "/c"}}`:                                           "bootstrap.etcd-client-key",
		`{"tls-clientverifyfile": "/ca.pem"}`:                                                 "tls-pemfile",
		`{"authentication-plugins": [{"name":"ldap"}]}`:                                       "httpbasicauth is",
		`{"authentication-plugins": [{"name":"httpbasicauth"}]}`:                              "filepath or users",
		`{"watch": {"keep_open": -1}}`:                                                        "watch.keep-open",
		`{"limits": {"body": 0}}`:                                                             "limits.body",
		`{"limits": {"read-timeout": -1}}`:                                                    "limits.read-timeout",
		`{"authentication-plugins": [{"name":"httpbasicauth","filepth":"u"}]}`:                `"filepth"`,
		`{"authentication-plugins": [{"name":"httpbasicauth","users":{"a":{"role":["x"]}}}]}`: `"role"`,
		`{"authentication-plugins": {"name":"httpbasicauth"}}`:                                "authentication-plugins: it is a object",
	} {
		if _, err := load(t, text, nil, nil, false); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "PASSWORD") {
			t.Errorf("%s: %v; want %q in it", text, err, want)
		}
	}
}

func TestAJumpHostIsReadByItsKeys(t *testing.T) {
	c := mustLoad(t, `{"ssh": {"known_hosts": "/k", "jump": {"address": "gate", "user": "core", "key": "exec:vault --token MARKER", "host_key": "SHA256:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxw"}}}`, nil, nil, false)
	if want := (Jump{Address: "gate", Port: 22, User: "core", Key: "exec:vault --token MARKER", HostKey: "SHA256:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxw"}); c.SSH.Jump != want || c.SSH.KnownHosts != "/k" {
		t.Errorf("%+v", c.SSH)
	}
	if shown := c.Masked().SSH.Jump.Key; shown != "exec:********" {
		t.Errorf("shown: %s", shown)
	}
}

func TestAFileThatIsNamedMustBeThere(t *testing.T) {
	if _, err := os.Stat(DefaultFile); err != nil { // where it is there, it may say what it likes
		if _, err := Load("", nil, nil, nil, false); err != nil {
			t.Errorf("without the default file: %v", err)
		}
	}
	path := filepath.Join(t.TempDir(), "c.json")
	if _, err := Load(path, nil, nil, nil, false); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("without the named file: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"listen-port": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(path, nil, nil, nil, false); err != nil || c.ListenPort != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestWhatIsShownHasNoSecretAndCanBeReadAgain(t *testing.T) {
	const marker = "MARKER"
	c := mustLoad(t, `{
		"authentication-plugins": [{"name":"httpbasicauth","users":{"a":{"hash":"MARKER","roles":["viewer"]}}}, {"name":"httpbasicauth","filepath":"u.json"}],
		"store": "esdb+discover://admin:MARKER:MARKER@db.example.com:2113?tls=true",
		"credentials": {"master-key": "exec:vault --token MARKER", "keys": "exec:keys --token MARKER"}, "ssh": {"retry-delay": "90s"},
		"bootstrap": {"etcd-url": "http://u:MARKER@a:1,http://u:MARKER@b:1", "registry-mirror": "https://u:MARKER@b/"}
	}`, nil, nil, false)
	text, err := json.Marshal(c.Masked())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), marker) {
		t.Errorf("shown: %s", text)
	}
	if shown := c.Masked(); shown.Store != "esdb+discover://admin:********@db.example.com:2113?tls=true" || shown.Credentials.Keys != "exec:********" {
		t.Errorf("shown: %s, %s", shown.Store, shown.Credentials.Keys)
	}
	if c.AuthenticationPlugins[0].Users["a"].Hash != marker || !strings.Contains(c.Bootstrap.EtcdURL, marker) {
		t.Error("showing it changed it")
	}
	again := mustLoad(t, string(text), nil, nil, false)
	if again.AuthenticationPlugins[0].Users["a"].Roles[0] != authentication.Viewer || !reflect.DeepEqual(again.SSH, c.SSH) {
		t.Errorf("read again: %+v", again)
	}
}

func TestInstancesOfASharedStoreHaveNamesOfTheirOwn(t *testing.T) {
	name := func(text string) string {
		got, err := mustLoad(t, text, nil, nil, false).InstanceName()
		if err != nil || got == "" {
			t.Errorf("%s: %q, %v", text, got, err)
		}
		return got
	}
	const shared = `{"store": "esdb://b", "credentials": {"keys": "file:/k"}}`
	if one, other := name(shared), name(shared); one == other || !strings.HasPrefix(one, name(`{}`)+"-") {
		t.Errorf("two instances are %s and %s, one alone %s", one, other, name(`{}`))
	}
	if got := name(`{"store": "esdb://b", "credentials": {"keys": "file:/k"}, "instance": "east-1"}`); got != "east-1" {
		t.Errorf("named east-1 it is %s", got)
	}
}
