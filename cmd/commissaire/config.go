package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/agnivade/levenshtein"
	"github.com/google/uuid"

	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/adapters/ssh"
	"commissaire/api/authentication"
	"commissaire/cmd/internal/store"
	"commissaire/domain"
)

const defaultConfigFile = "/etc/commissaire/commissaire.conf"

// Config is all that can be configured. Keys keep the names that operators of
// Commissaire know; _ and - are alike in them. The command line wins over the
// environment (COMMISSAIRE_LISTEN_PORT, COMMISSAIRE_CREDENTIALS_MASTER_KEY, …),
// that over the file, that over the defaults.
type Config struct {
	ListenInterface       string            `json:"listen-interface"`
	ListenPort            int               `json:"listen-port"`
	TLSPEMFile            string            `json:"tls-pemfile"`
	TLSClientVerifyFile   string            `json:"tls-clientverifyfile"`
	AuthenticationPlugins []Plugin          `json:"authentication-plugins"`
	SelfAuths             []string          `json:"self-auths"` // taken from files of the old service, without effect: all routes ask for authentication
	Debug                 bool              `json:"debug"`
	Insecure              bool              `json:"insecure"`
	Store                 string            `json:"store"`
	EventStoreDB          esdbConfig        `json:"eventstoredb"`
	Instance              string            `json:"instance"` // "": the host's name, and with a shared store a part that each start makes anew
	SSH                   sshConfig         `json:"ssh"`
	Hosts                 hostsConfig       `json:"hosts"`
	Bootstrap             bootstrapConfig   `json:"bootstrap"`
	Operations            operationsConfig  `json:"operations"`
	Watch                 watchConfig       `json:"watch"`
	Credentials           credentialsConfig `json:"credentials"`
	ContainerManagers     managersConfig    `json:"container-managers"`
	Limits                limitsConfig      `json:"limits"`
	Events                eventsConfig      `json:"events"`
	Log                   logConfig         `json:"log"`
	Snapshots             snapshotsConfig   `json:"snapshots"`
}

// Plugin is a way of knowing who asks. httpbasicauth is the one there is, also
// under the name of the module that it used to be in.
type Plugin struct {
	Name     string                         `json:"name"`
	FilePath string                         `json:"filepath,omitempty"`
	Users    map[string]authentication.User `json:"users,omitempty"`
}

// UnmarshalJSON refuses keywords that the plugin does not have.
func (p *Plugin) UnmarshalJSON(data []byte) error {
	type plain Plugin
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return decoder.Decode((*plain)(p))
}

type sshConfig struct {
	DialTimeout      Duration `json:"dial-timeout"`
	HandshakeTimeout Duration `json:"handshake-timeout"`
	Attempts         int      `json:"attempts"`
	RetryDelay       Duration `json:"retry-delay"`
	AtOnce           int      `json:"at-once"`

	Algorithms ssh.Algorithms `json:"algorithms"` // modern or compatible

	KnownHosts string     `json:"known-hosts"` // path; "": the first key that a host shows is pinned
	Jump       jumpConfig `json:"jump"`
}

// jumpConfig is the host by way of which all others are reached; none where the
// address is "".
type jumpConfig struct {
	Address string `json:"address"`
	Port    int    `json:"port"`
	User    string `json:"user"`
	Key     string `json:"key"`      // file:PATH, env:NAME or exec:COMMAND
	HostKey string `json:"host-key"` // SHA256:…
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
	HealthInterval  Duration `json:"health-interval"`
	OutputDir       string   `json:"output-dir"`      // "": output in the store's directory; of another store, one that ends with the service
	OutputLimit     int64    `json:"output-limit"`    // bytes that are kept of what a host prints in an operation
	OutputMaxAge    Duration `json:"output-max-age"`  // of what is kept of an operation that has ended
	OutputMaxSize   int64    `json:"output-max-size"` // bytes of all that is kept
}

type watchConfig struct {
	Interval    Duration `json:"interval"`
	Concurrency int      `json:"concurrency"`
	Misses      int      `json:"misses"`
	KeepOpen    keepOpen `json:"keep-open"` // idle connections; 0: each look connects anew
}

// esdbConfig is for a store esdb://….
type esdbConfig struct {
	Prefix string   `json:"prefix"` // of the names of streams, so that several services share a server
	Lease  Duration `json:"lease"`  // how long an instance leads without saying so again
}

type credentialsConfig struct {
	MasterKey string `json:"master-key"`
	Keys      string `json:"keys"` // of a shared store: file:DIR or exec:COMMAND
}

type managersConfig struct {
	CertificateDir string   `json:"certificate-dir"`
	Timeout        Duration `json:"timeout"` // of one call
}

// limitsConfig bounds what one request may take.
type limitsConfig struct {
	Body        int      `json:"body"`    // bytes, also of one that is sent compressed
	Headers     int      `json:"headers"` // bytes
	ReadTimeout Duration `json:"read-timeout"`
	IdleTimeout Duration `json:"idle-timeout"`
}

// eventsConfig is about those who read GET /events.
type eventsConfig struct {
	Heartbeat Duration `json:"heartbeat"` // less than what proxies wait for
	Readers   int      `json:"readers"`   // at the same time
}

// logConfig is about checkpoints of the log; none are signed without a key.
type logConfig struct {
	SigningKey         string   `json:"signing-key"` // file:PATH, env:NAME or exec:COMMAND
	CheckpointInterval Duration `json:"checkpoint-interval"`
	CheckpointFile     string   `json:"checkpoint-file"` // to which each is appended
	CheckpointURL      string   `json:"checkpoint-url"`  // to which each is PUT
	TreeDir            string   `json:"tree-dir"`        // "": tree in the store's directory, or one that goes with the service where that has none
}

// snapshotsConfig is about snapshots of what is served, from which a start goes on.
type snapshotsConfig struct {
	Dir     string   `json:"dir"`      // "": snapshots in the store's directory; where that has none, none are kept
	Events  int      `json:"events"`   // after so many more the next is taken
	MaxAge  Duration `json:"max-age"`  // of all but the latest
	MaxSize int64    `json:"max-size"` // bytes of all there is; the latest is kept in any case
}

// Duration is written "90s", or as a number of seconds.
type Duration time.Duration

// UnmarshalJSON reads "90s" or 90.
func (d *Duration) UnmarshalJSON(data []byte) error {
	bad := fmt.Errorf("%s is no duration: write \"90s\", \"5m\" or a number of seconds", data)
	var seconds float64
	if json.Unmarshal(data, &seconds) == nil {
		if math.Abs(seconds) > math.MaxInt32 {
			return bad
		}
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	var text string
	if json.Unmarshal(data, &text) != nil {
		return bad
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		return bad
	}
	*d = Duration(value)
	return nil
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
			Algorithms: ssh.Modern, Jump: jumpConfig{Port: 22},
		},
		Bootstrap: bootstrapConfig{Profile: "flannel-docker", EtcdURL: "http://127.0.0.1:2379", FlannelKey: "/atomic01/network"},
		Operations: operationsConfig{
			RebootFirstLook: Duration(5 * time.Second), RebootTimeout: Duration(200 * time.Second), HealthInterval: Duration(time.Second),
			OutputLimit: 1 << 20, OutputMaxAge: Duration(30 * 24 * time.Hour), OutputMaxSize: 1 << 30,
		},
		Watch:             watchConfig{Interval: Duration(time.Minute), Concurrency: 64, Misses: 3, KeepOpen: automatic},
		EventStoreDB:      esdbConfig{Prefix: "commissaire-", Lease: Duration(10 * time.Second)},
		ContainerManagers: managersConfig{Timeout: Duration(10 * time.Second)},
		Limits: limitsConfig{
			Body: 1 << 20, Headers: 64 << 10, ReadTimeout: Duration(time.Minute), IdleTimeout: Duration(2 * time.Minute),
		},
		Events:    eventsConfig{Heartbeat: Duration(15 * time.Second), Readers: 2048},
		Log:       logConfig{CheckpointInterval: Duration(10 * time.Minute)},
		Snapshots: snapshotsConfig{Events: 50_000, MaxAge: Duration(7 * 24 * time.Hour), MaxSize: 256 << 20},
	}
	if dev {
		c.ListenInterface, c.Store = "127.0.0.1", "sqlite:var/store"
		c.Hosts.AllowLoopback = true
		c.Credentials.MasterKey = "file:" + devMasterKey
	}
	return c
}

// loadConfig reads the configuration. path "" is the default file, which may be
// missing; "-" is standard input. environment are the variables by name, given the
// keys of the command line, dotted.
// dev changes defaults and nothing else.
func loadConfig(path string, stdin io.Reader, environment map[string]string, given map[string]any, dev bool) (Config, error) {
	fail := func(err error) (Config, error) { return Config{}, fmt.Errorf("read the configuration: %w", err) }
	c := defaults(dev)
	fields := map[string]any{}
	addFields(fields, "", reflect.ValueOf(&c).Elem())
	file, err := readConfig(path, stdin)
	if err != nil {
		return fail(err)
	}
	settings := map[string]any{} // of all layers, by key
	for _, layer := range []map[string]any{file, fromEnvironment(fields, environment), given} {
		flat := map[string]any{}
		if err := flatten(flat, "", layer, fields); err != nil {
			return fail(err)
		}
		maps.Copy(settings, flat)
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if err := set(fields[key], settings[key]); err != nil {
			return fail(fmt.Errorf("%s: %w", key, err))
		}
	}
	if err := noMisspelt(fields, environment, c.Credentials.MasterKey, c.SSH.Jump.Key, c.Log.SigningKey); err != nil {
		return fail(err)
	}
	return c, c.check()
}

func readConfig(path string, stdin io.Reader) (map[string]any, error) {
	var text []byte
	var err error
	switch path {
	case "-":
		path = "standard input"
		text, err = io.ReadAll(stdin)
	case "":
		path = defaultConfigFile
		text, err = os.ReadFile(path)
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
		return nil, fmt.Errorf("%s must have a JSON object: %w", path, err)
	}
	return layer, nil
}

// addFields adds a pointer to all that can be set, by dotted key.
func addFields(fields map[string]any, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		key := prefix + v.Type().Field(i).Tag.Get("json")
		if v.Field(i).Kind() == reflect.Struct {
			addFields(fields, key+".", v.Field(i))
			continue
		}
		fields[key] = v.Field(i).Addr().Interface()
	}
}

// flatten adds the settings of an object by dotted key; the object may have them
// dotted or nested, with - or _. A null is as if it were not there. What is not
// one of fields is refused, and what is there twice.
func flatten(flat map[string]any, prefix string, object, fields map[string]any) error {
	for _, written := range slices.Sorted(maps.Keys(object)) {
		key, value := prefix+strings.ReplaceAll(written, "_", "-"), object[written]
		section := func(known string) bool { return strings.HasPrefix(known, key+".") }
		_, known := fields[key]
		_, twice := flat[key]
		switch nested, isObject := value.(map[string]any); {
		case value == nil:
		case twice:
			return fmt.Errorf("%s is there twice", key)
		case known:
			flat[key] = value
		case !slices.ContainsFunc(slices.Collect(maps.Keys(fields)), section):
			return fmt.Errorf("there is no key %q; the nearest is %q", key, nearest(key, fields))
		case !isObject:
			return fmt.Errorf("%s must be an object", key)
		default:
			if err := flatten(flat, key+".", nested, fields); err != nil {
				return err
			}
		}
	}
	return nil
}

// nearest is the key most like one that is not there.
func nearest(key string, fields map[string]any) string {
	return slices.MinFunc(slices.Sorted(maps.Keys(fields)), func(a, b string) int {
		return levenshtein.ComputeDistance(a, key) - levenshtein.ComputeDistance(b, key)
	})
}

// set puts a value, as JSON gives it, into a field.
func set(field, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	reflect.ValueOf(field).Elem().SetZero() // a list replaces the default one
	err = json.Unmarshal(data, field)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if in := wrong.Field; in != "" {
			return fmt.Errorf("%s: it is a %s and must be a %s", in, wrong.Value, wrong.Type)
		}
		return fmt.Errorf("it is a %s and must be a %s", wrong.Value, wrong.Type)
	}
	return err
}

// variable is the environment's name of a key.
func variable(key string) string {
	return "COMMISSAIRE_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(key))
}

// fromEnvironment reads text as it is, and all else as JSON.
func fromEnvironment(fields map[string]any, environment map[string]string) map[string]any {
	layer := map[string]any{}
	for key, field := range fields {
		text, ok := environment[variable(key)]
		if !ok {
			continue
		}
		var value any
		if _, isText := field.(*string); isText || json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		layer[key] = value
	}
	return layer
}

// environ is the environment of this process, by name.
func environ() map[string]string {
	all := map[string]string{}
	for _, one := range os.Environ() {
		name, value, _ := strings.Cut(one, "=")
		all[name] = value
	}
	return all
}

// notOurs are variables that others set: tests, and Kubernetes in every pod of a
// namespace that has a service named commissaire.
var notOurs = regexp.MustCompile(`^COMMISSAIRE_(TEST_.*=|SERVICE_(HOST|PORT.*)=|PORT=[a-z]+://|PORT_[0-9]+_(TCP|UDP|SCTP).*=)`)

// noMisspelt refuses variables that are named like ours and are of no key, but
// for those that have the keys which are configured so.
func noMisspelt(fields map[string]any, environment map[string]string, keys ...string) error {
	known := make(map[string]any, len(fields))
	for key := range fields {
		known[variable(key)] = nil
	}
	for _, name := range slices.Sorted(maps.Keys(environment)) {
		if _, ok := known[name]; ok || !strings.HasPrefix(name, "COMMISSAIRE_") || notOurs.MatchString(name+"="+environment[name]) || slices.Contains(keys, "env:"+name) {
			continue
		}
		return fmt.Errorf("there is no variable %s; the nearest is %s", name, nearest(name, known))
	}
	return nil
}

func (c Config) check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("the configuration: "+format, args...)
	}
	if c.ListenPort < 0 || c.ListenPort > 65535 {
		return fail("listen-port must be from 0 (any free one) to 65535")
	}
	if err := c.storeName().Check("store", "credentials.keys"); err != nil {
		return fail("%w", err)
	}
	switch {
	case len(c.Instance) > 128 || strings.ContainsFunc(c.Instance, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }):
		return fail("instance must have at most 128 bytes, and no blanks")
	case c.SSH.Attempts < 1 || c.SSH.AtOnce < 1:
		return fail("ssh.attempts and ssh.at-once must be at least 1")
	case c.SSH.DialTimeout <= 0 || c.SSH.HandshakeTimeout <= 0 || c.SSH.RetryDelay < 0:
		return fail("ssh.dial-timeout and ssh.handshake-timeout must be more than 0, ssh.retry-delay not less")
	case c.SSH.Algorithms != ssh.Modern && c.SSH.Algorithms != ssh.Compatible:
		return fail("ssh.algorithms must be modern, or compatible: also SHA-1, and RSA keys of 1024 bits and more")
	case c.SSH.Jump.Address == "" && (c.SSH.Jump.User != "" || c.SSH.Jump.Key != "" || c.SSH.Jump.HostKey != ""):
		return fail("ssh.jump needs an address")
	case c.SSH.Jump.Address != "" && (c.SSH.Jump.User == "" || c.SSH.Jump.Key == "" || c.SSH.Jump.HostKey == ""):
		return fail("ssh.jump needs a user, a key (file:PATH, env:NAME or exec:COMMAND) and the host-key of the jump host (SHA256:…, as ssh-keygen -l prints it)")
	case c.SSH.Jump.Port < 1 || c.SSH.Jump.Port > 65535:
		return fail("ssh.jump.port must be from 1 to 65535")
	case c.Operations.HealthInterval <= 0:
		return fail("operations.health-interval must be more than 0")
	case c.Operations.RebootFirstLook < 0 || c.Operations.RebootTimeout <= c.Operations.RebootFirstLook:
		return fail("operations.reboot-timeout must be more than operations.reboot-first-look, and that not less than 0")
	case c.Operations.OutputLimit < 4096 || c.Operations.OutputMaxAge <= 0 || c.Operations.OutputMaxSize < 0:
		return fail("operations.output-limit must be at least 4096 (bytes), operations.output-max-age more than 0, operations.output-max-size not less")
	case c.Watch.Concurrency < 1 || c.Watch.Misses < 1 || c.Watch.Interval <= 0:
		return fail("watch.interval, watch.concurrency and watch.misses must be more than 0")
	case c.ContainerManagers.Timeout <= 0:
		return fail("container-managers.timeout must be more than 0")
	case c.EventStoreDB.Lease < Duration(time.Second):
		return fail("eventstoredb.lease must be at least 1s")
	case c.Limits.Body < 1 || c.Limits.Headers < 1 || c.Limits.ReadTimeout <= 0 || c.Limits.IdleTimeout <= 0:
		return fail("limits.body, limits.headers, limits.read-timeout and limits.idle-timeout must be more than 0")
	case c.Events.Heartbeat <= 0 || c.Events.Readers < 0:
		return fail("events.heartbeat must be more than 0, events.readers not less")
	case c.Snapshots.Events < 1 || c.Snapshots.MaxAge <= 0 || c.Snapshots.MaxSize < 0:
		return fail("snapshots.events must be at least 1, snapshots.max-age more than 0, snapshots.max-size (bytes) not less")
	case c.Log.CheckpointInterval <= 0:
		return fail("log.checkpoint-interval must be more than 0")
	case c.Log.SigningKey == "" && (c.Log.CheckpointFile != "" || c.Log.CheckpointURL != ""):
		return fail("log.checkpoint-file and log.checkpoint-url need log.signing-key; commissaire events key makes one")
	case c.Log.CheckpointURL != "" && !strings.HasPrefix(c.Log.CheckpointURL, "https://") && !strings.HasPrefix(c.Log.CheckpointURL, "http://"):
		return fail("log.checkpoint-url must begin with https:// or http://")
	case (c.Bootstrap.EtcdClientCert == "") != (c.Bootstrap.EtcdClientKey == ""):
		return fail("bootstrap.etcd-client-cert and bootstrap.etcd-client-key need each other")
	case c.TLSClientVerifyFile != "" && c.TLSPEMFile == "":
		return fail("tls-clientverifyfile needs tls-pemfile too")
	}
	if c.SSH.Jump.HostKey != "" {
		if _, err := domain.ParseFingerprint(c.SSH.Jump.HostKey); err != nil {
			return fail("ssh.jump.host-key %w", err)
		}
	}
	for _, p := range c.AuthenticationPlugins {
		if p.shortName() != "httpbasicauth" {
			return fail("authentication-plugins: %q is not there; httpbasicauth is", p.Name)
		}
		if (p.FilePath == "") == (len(p.Users) == 0) {
			return fail("authentication-plugins: httpbasicauth needs filepath or users, and not both")
		}
	}
	return nil
}

// storeName is where the configured log and credentials are.
func (c Config) storeName() store.Location {
	return store.Location{Log: c.Store, Keys: c.Credentials.Keys, Options: c.esdbOptions()}
}

func (c Config) esdbOptions() eventstoredb.Options {
	return eventstoredb.Options{Prefix: c.EventStoreDB.Prefix, Lease: time.Duration(c.EventStoreDB.Lease)}
}

// instanceName is the name by which this instance is known in the log. It is one
// instance's alone, also where several have the same host's name, as in containers:
// what is made by default with a shared store is new at each start.
func (c Config) instanceName() (string, error) {
	if c.Instance != "" {
		return c.Instance, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name this instance: %w; set instance", err)
	}
	if c.storeName().Shared() {
		name += "-" + uuid.NewString()[:8]
	}
	return name, nil
}

// shortName is the plugin's name without the module that it used to be in.
func (p Plugin) shortName() string {
	return strings.TrimPrefix(p.Name, "commissaire_http.authentication.")
}

// passwordInURL is what stands between the user and the host of a URL.
var passwordInURL = regexp.MustCompile(`(://[^:/@]*):[^/]*@`)

// masked is the configuration as it may be shown.
func (c Config) masked() Config {
	plugins := slices.Clone(c.AuthenticationPlugins)
	for i, p := range plugins {
		users := make(map[string]authentication.User, len(p.Users))
		for name, user := range p.Users {
			users[name] = authentication.User{Hash: "********", Roles: user.Roles}
		}
		plugins[i].Users = users
	}
	c.AuthenticationPlugins = plugins
	for _, source := range []*string{&c.Credentials.MasterKey, &c.Credentials.Keys, &c.SSH.Jump.Key, &c.Log.SigningKey} {
		if strings.HasPrefix(*source, "exec:") {
			*source = "exec:********"
		}
	}
	c.Store = c.storeName().Masked()
	for _, url := range []*string{&c.Bootstrap.EtcdURL, &c.Bootstrap.RegistryMirror, &c.Log.CheckpointURL} {
		*url = passwordInURL.ReplaceAllString(*url, "$1:********@")
	}
	return c
}
