package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"

	"commissaire/api/authentication"
)

const defaultConfigFile = "/etc/commissaire/commissaire.conf"

// Config is all that can be configured. Keys keep the names that operators of
// Commissaire know; _ and - are alike in them. The command line wins over the
// environment (COMMISSAIRE_LISTEN_PORT, COMMISSAIRE_CREDENTIALS_MASTER_KEY, …),
// that over the file, that over the defaults.
type Config struct {
	ListenInterface       string             `json:"listen-interface"`
	ListenPort            int                `json:"listen-port"`
	TLSPEMFile            string             `json:"tls-pemfile"`
	TLSClientVerifyFile   string             `json:"tls-clientverifyfile"`
	AuthenticationPlugins []Plugin           `json:"authentication-plugins"`
	Debug                 bool               `json:"debug"`
	Insecure              bool               `json:"insecure"`
	Store                 string             `json:"store"`
	SSH                   sshConfig          `json:"ssh"`
	Hosts                 hostsConfig        `json:"hosts"`
	Bootstrap             bootstrapConfig    `json:"bootstrap"`
	Operations            operationsConfig   `json:"operations"`
	Watch                 watchConfig        `json:"watch"`
	Credentials           credentialsConfig  `json:"credentials"`
	ContainerManagers     certificatesConfig `json:"container-managers"`
}

// Plugin is a way of knowing who asks. httpbasicauth is the one there is.
type Plugin struct {
	Name     string                         `json:"name"`
	FilePath string                         `json:"filepath"`
	Users    map[string]authentication.User `json:"users"`
}

type sshConfig struct {
	DialTimeout      Duration `json:"dial-timeout"`
	HandshakeTimeout Duration `json:"handshake-timeout"`
	Attempts         int      `json:"attempts"`
	RetryDelay       Duration `json:"retry-delay"`
	AtOnce           int      `json:"at-once"`
}

type hostsConfig struct {
	AllowLoopback bool           `json:"allow-loopback"`
	Denied        []netip.Prefix `json:"denied"`
}

type bootstrapConfig struct {
	Profile        string `json:"profile"`
	EtcdURL        string `json:"etcd-url"`
	FlannelKey     string `json:"flannel-key"`
	RegistryMirror string `json:"registry-mirror"`
	EtcdClientCert string `json:"etcd-client-cert"`
	EtcdClientKey  string `json:"etcd-client-key"`
	EtcdCA         string `json:"etcd-ca"`
}

type operationsConfig struct {
	RebootFirstLook Duration `json:"reboot-first-look"`
	RebootTimeout   Duration `json:"reboot-timeout"`
}

type watchConfig struct {
	Interval    Duration `json:"interval"`
	Concurrency int      `json:"concurrency"`
	Misses      int      `json:"misses"`
}

type credentialsConfig struct {
	MasterKey string `json:"master-key"`
}

type certificatesConfig struct {
	CertificateDir string `json:"certificate-dir"`
}

// Duration is written "90s", or as a number of seconds.
type Duration time.Duration

// UnmarshalJSON reads "90s" or 90.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var seconds float64
	if json.Unmarshal(data, &seconds) == nil {
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("a duration is a string such as \"90s\" or a number of seconds")
	}
	value, err := time.ParseDuration(text)
	*d = Duration(value)
	return err
}

// MarshalJSON writes "1m30s".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// defaults are what holds where nothing is said; dev changes nothing else.
func defaults(dev bool) Config {
	c := Config{
		ListenInterface: "0.0.0.0", ListenPort: 8000, Store: "sqlite:/var/lib/commissaire",
		SSH: sshConfig{
			DialTimeout: Duration(10 * time.Second), HandshakeTimeout: Duration(10 * time.Second),
			Attempts: 3, RetryDelay: Duration(5 * time.Second), AtOnce: 64,
		},
		Bootstrap:  bootstrapConfig{Profile: "flannel-docker", EtcdURL: "http://127.0.0.1:2379", FlannelKey: "/atomic01/network"},
		Operations: operationsConfig{RebootFirstLook: Duration(5 * time.Second), RebootTimeout: Duration(200 * time.Second)},
		Watch:      watchConfig{Interval: Duration(time.Minute), Concurrency: 64, Misses: 3},
	}
	if dev {
		c.ListenInterface, c.Store = "127.0.0.1", "sqlite:var/store"
		c.Hosts.AllowLoopback = true
		c.Credentials.MasterKey = "file:" + devMasterKey
	}
	return c
}

// loadConfig reads the configuration. path "" is the default file, which may be
// missing; "-" is standard input. given are the keys of the command line, dotted.
func loadConfig(path string, stdin io.Reader, environment func(string) (string, bool), given map[string]any, dev bool) (Config, error) {
	c := defaults(dev)
	text, err := readConfig(path, stdin)
	if err != nil {
		return c, fmt.Errorf("read the configuration: %w", err)
	}
	keys := knownKeys("", reflect.TypeFor[Config]())
	layers := []map[string]any{text, fromEnvironment(keys, environment), given}
	for _, layer := range layers {
		layer = normal(layer)
		if err := onlyKnown("", layer, keys); err != nil {
			return c, err
		}
		data, err := json.Marshal(layer)
		if err != nil {
			return c, fmt.Errorf("read the configuration: %w", err)
		}
		if err := json.Unmarshal(data, &c); err != nil {
			return c, fmt.Errorf("read the configuration: %w", err)
		}
	}
	return c, c.check()
}

func readConfig(path string, stdin io.Reader) (map[string]any, error) {
	var text []byte
	var err error
	switch path {
	case "-":
		text, err = io.ReadAll(stdin)
	case "":
		text, err = os.ReadFile(defaultConfigFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	default:
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	var layer map[string]any
	if err := json.Unmarshal(text, &layer); err != nil {
		return nil, fmt.Errorf("it must be a JSON object: %w", err)
	}
	return layer, nil
}

// normal writes all keys with -, and dotted ones as nested objects.
func normal(layer map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range layer {
		key = strings.ReplaceAll(key, "_", "-")
		if nested, ok := value.(map[string]any); ok && key != "users" {
			value = normal(nested)
		}
		outer, inner, dotted := strings.Cut(key, ".")
		if !dotted {
			out[key] = value
			continue
		}
		section, ok := out[outer].(map[string]any)
		if !ok {
			section = map[string]any{}
			out[outer] = section
		}
		section[inner] = value
	}
	return out
}

// knownKeys lists all keys, dotted; sections too.
func knownKeys(prefix string, t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		key := prefix + t.Field(i).Tag.Get("json")
		keys = append(keys, key)
		if t.Field(i).Type.Kind() == reflect.Struct {
			keys = append(keys, knownKeys(key+".", t.Field(i).Type)...)
		}
	}
	return keys
}

func onlyKnown(prefix string, layer map[string]any, keys []string) error {
	for key, value := range layer {
		key = prefix + key
		if !slices.Contains(keys, key) {
			nearest := slices.MinFunc(keys, func(a, b string) int {
				return levenshtein.ComputeDistance(a, key) - levenshtein.ComputeDistance(b, key)
			})
			return fmt.Errorf("read the configuration: there is no key %q; the nearest is %q", key, nearest)
		}
		if section, ok := value.(map[string]any); ok {
			if err := onlyKnown(key+".", section, keys); err != nil {
				return err
			}
		}
	}
	return nil
}

func fromEnvironment(keys []string, environment func(string) (string, bool)) map[string]any {
	layer := map[string]any{}
	for _, key := range keys {
		name := "COMMISSAIRE_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(key))
		text, ok := environment(name)
		if !ok {
			continue
		}
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		layer[key] = value
	}
	return layer
}

func (c Config) check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("the configuration: "+format, args...)
	}
	if c.ListenPort < 0 || c.ListenPort > 65535 {
		return fail("listen-port must be from 0 (any free one) to 65535")
	}
	kind, where, _ := strings.Cut(c.Store, ":")
	switch {
	case kind != "sqlite" && kind != "memory":
		return fail("store must be sqlite:DIR or memory:, not %q", c.Store)
	case kind == "sqlite" && where == "":
		return fail("store sqlite: needs a directory, as in sqlite:/var/lib/commissaire")
	case c.SSH.Attempts < 1 || c.SSH.AtOnce < 1:
		return fail("ssh.attempts and ssh.at-once must be at least 1")
	case c.Watch.Concurrency < 1 || c.Watch.Misses < 1 || c.Watch.Interval <= 0:
		return fail("watch.interval, watch.concurrency and watch.misses must be more than 0")
	case c.TLSClientVerifyFile != "" && c.TLSPEMFile == "":
		return fail("tls-clientverifyfile needs tls-pemfile too")
	}
	for _, p := range c.AuthenticationPlugins {
		if p.shortName() != "httpbasicauth" {
			return fail("authentication-plugins: %q is not there; httpbasicauth is", p.Name)
		}
		if p.FilePath == "" && len(p.Users) == 0 {
			return fail("authentication-plugins: httpbasicauth needs filepath or users")
		}
	}
	return nil
}

// shortName is the plugin's name without the module that it used to be in.
func (p Plugin) shortName() string { return p.Name[strings.LastIndex(p.Name, ".")+1:] }

// masked is the configuration as it may be shown.
func (c Config) masked() Config {
	plugins := slices.Clone(c.AuthenticationPlugins)
	for i, p := range plugins {
		users := map[string]authentication.User{}
		for name, user := range p.Users {
			users[name] = authentication.User{Hash: "********", Roles: user.Roles}
		}
		plugins[i].Users = users
	}
	c.AuthenticationPlugins = plugins
	if strings.HasPrefix(c.Credentials.MasterKey, "exec:") {
		c.Credentials.MasterKey = "exec:********"
	}
	return c
}
