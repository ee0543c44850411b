// Package config knows every key of the configuration: its default, its name in files,
// in the environment and on the command line, and what it may be.
package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/adapters/ssh"
	"commissaire/api/authentication"
	"commissaire/cmd/internal/store"
)

// DefaultFile is read where no file is named; it may be missing.
const DefaultFile = "/etc/commissaire/commissaire.conf"

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
	EventStoreDB          EventStoreDB      `json:"eventstoredb"`
	Instance              string            `json:"instance"` // "": the host's name, and with a shared store a part that each start makes anew
	SSH                   SSH               `json:"ssh"`
	Hosts                 Hosts             `json:"hosts"`
	Bootstrap             Bootstrap         `json:"bootstrap"`
	Operations            Operations        `json:"operations"`
	Watch                 Watch             `json:"watch"`
	Credentials           Credentials       `json:"credentials"`
	ContainerManagers     ContainerManagers `json:"container-managers"`
	Limits                Limits            `json:"limits"`
	Events                Events            `json:"events"`
	Log                   Log               `json:"log"`
	Snapshots             Snapshots         `json:"snapshots"`
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

// SSH is how hosts are logged in to.
type SSH struct {
	DialTimeout      Duration `json:"dial-timeout"`
	HandshakeTimeout Duration `json:"handshake-timeout"`
	Attempts         int      `json:"attempts"`
	RetryDelay       Duration `json:"retry-delay"`
	AtOnce           int      `json:"at-once"`

	Algorithms ssh.Algorithms `json:"algorithms"` // modern or compatible

	KnownHosts string `json:"known-hosts"` // path; "": the first key that a host shows is pinned
	Jump       Jump   `json:"jump"`
}

// Jump is the host by way of which all others are reached; none where the
// address is "".
type Jump struct {
	Address string `json:"address"`
	Port    int    `json:"port"`
	User    string `json:"user"`
	Key     string `json:"key"`      // file:PATH, env:NAME or exec:COMMAND
	HostKey string `json:"host-key"` // SHA256:…
}

// Hosts is which hosts may be connected to.
type Hosts struct {
	AllowLoopback bool           `json:"allow-loopback"`
	Denied        []netip.Prefix `json:"denied"`
}

// Bootstrap is what a new host is made of.
type Bootstrap struct {
	Profile        string `json:"profile"`
	EtcdURL        string `json:"etcd-url"`
	FlannelKey     string `json:"flannel-key"`
	RegistryMirror string `json:"registry-mirror"`
	EtcdClientCert string `json:"etcd-client-cert"`
	EtcdClientKey  string `json:"etcd-client-key"`
	EtcdCA         string `json:"etcd-ca"`
}

// Operations is how long hosts may take, and what is kept of what they print.
type Operations struct {
	RebootFirstLook Duration `json:"reboot-first-look"`
	RebootTimeout   Duration `json:"reboot-timeout"`
	HealthInterval  Duration `json:"health-interval"`
	OutputDir       string   `json:"output-dir"`      // "": output in the store's directory; of another store, one that ends with the service
	OutputLimit     int64    `json:"output-limit"`    // bytes that are kept of what a host prints in an operation
	OutputMaxAge    Duration `json:"output-max-age"`  // of what is kept of an operation that has ended
	OutputMaxSize   int64    `json:"output-max-size"` // bytes of all that is kept
}

// Watch is how hosts are looked at when nothing else is done on them.
type Watch struct {
	Interval    Duration    `json:"interval"`
	Concurrency int         `json:"concurrency"`
	Misses      int         `json:"misses"`
	KeepOpen    Connections `json:"keep-open"` // idle connections; 0: each look connects anew
}

// EventStoreDB is for a store esdb://….
type EventStoreDB struct {
	Prefix string   `json:"prefix"` // of the names of streams, so that several services share a server
	Lease  Duration `json:"lease"`  // how long an instance leads without saying so again
}

// Credentials is where keys are that seal credentials.
type Credentials struct {
	MasterKey string `json:"master-key"`
	Keys      string `json:"keys"` // of a shared store: file:DIR or exec:COMMAND
}

// ContainerManagers is how container managers are called.
type ContainerManagers struct {
	CertificateDir string   `json:"certificate-dir"`
	Timeout        Duration `json:"timeout"` // of one call
}

// Limits bounds what one request may take.
type Limits struct {
	Body        int      `json:"body"`    // bytes, also of one that is sent compressed
	Headers     int      `json:"headers"` // bytes
	ReadTimeout Duration `json:"read-timeout"`
	IdleTimeout Duration `json:"idle-timeout"`
}

// Events is about those who read GET /events.
type Events struct {
	Heartbeat Duration `json:"heartbeat"` // less than what proxies wait for
	Readers   int      `json:"readers"`   // at the same time
}

// Log is about checkpoints of the log; none are signed without a key.
type Log struct {
	SigningKey         string   `json:"signing-key"` // file:PATH, env:NAME or exec:COMMAND
	CheckpointInterval Duration `json:"checkpoint-interval"`
	CheckpointFile     string   `json:"checkpoint-file"` // to which each is appended
	CheckpointURL      string   `json:"checkpoint-url"`  // to which each is PUT
	TreeDir            string   `json:"tree-dir"`        // "": tree in the store's directory, or one that goes with the service where that has none
}

// Snapshots is about snapshots of what is served, from which a start goes on.
type Snapshots struct {
	Dir     string   `json:"dir"`      // "": snapshots in the store's directory; where that has none, none are kept
	Events  int      `json:"events"`   // after so many more the next is taken
	MaxAge  Duration `json:"max-age"`  // of all but the latest
	MaxSize int64    `json:"max-size"` // bytes of all there is; the latest is kept in any case
}

// Location is where the configured log and credentials are.
func (c Config) Location() store.Location { return c.LocationOf(c.Store, c.Credentials.Keys) }

// LocationOf is where another log and its credentials are, with all that is configured
// for any store.
func (c Config) LocationOf(log, keys string) store.Location {
	return store.Location{
		Log: log, Keys: keys,
		Options: eventstoredb.Options{Prefix: c.EventStoreDB.Prefix, Lease: time.Duration(c.EventStoreDB.Lease)},
	}
}

// InstanceName is the name by which this instance is known in the log. It is one
// instance's alone, also where several have the same host's name, as in containers:
// what is made by default with a shared store is new at each start.
func (c Config) InstanceName() (string, error) {
	if c.Instance != "" {
		return c.Instance, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name this instance: %w; set instance", err)
	}
	if c.Location().Shared() {
		name += "-" + uuid.NewString()[:8]
	}
	return name, nil
}

// shortName is the plugin's name without the module that it used to be in.
func (p Plugin) shortName() string {
	return strings.TrimPrefix(p.Name, "commissaire_http.authentication.")
}
