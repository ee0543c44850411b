package ssh

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"commissaire/commands/process"
	"commissaire/domain"
)

// Profile is what makes a host fit, step by step. As JSON it is what a site
// writes to have hosts made fit for something else.
type Profile struct {
	Name  string   `json:"name"`
	OS    []string `json:"os,omitempty"` // for these only; absent: wherever there is a family
	Steps []Step   `json:"steps"`
}

// Step is one of Packages, File, Command and Services.
type Step struct {
	Name string `json:"name"` // for people, e.g. "install docker"

	// Where it applies.
	OS         []string `json:"os,omitempty"`          // these only
	Release    string   `json:"release,omitempty"`     // versions of the OS that begin so, e.g. "7"
	SkipOSTree bool     `json:"skip_ostree,omitempty"` // not where the OS is an ostree

	Packages []string `json:"packages,omitempty"` // alternatives: the first that is there, or can be installed
	File     *File    `json:"file,omitempty"`
	Command  string   `json:"command,omitempty"`  // a POSIX shell script, run as root
	Services []string `json:"services,omitempty"` // enabled and restarted, in this order
}

// File is written as a whole, and only if it differs. Content is a
// text/template over Values; where nothing comes out of it, nothing is written.
type File struct {
	Path    string `json:"path"`
	Mode    string `json:"mode"` // octal, e.g. "0644"
	Content string `json:"content"`
}

// Values are what the content of a file may refer to, as {{.EtcdURL}}.
type Values struct {
	EtcdURL        string
	FlannelKey     string
	RegistryMirror string // "": none
	NetworkType    string // domain.FlannelEtcd or domain.FlannelServer
	Server         string // domain.FlannelServer: host:port

	// Texts in PEM form; "" where not configured.
	Certificate string
	Key         string
	CA          string
}

const flanneldFile = `# Written by Commissaire. Changes made here are lost.
{{if eq .NetworkType "` + domain.FlannelServer + `" -}}
FLANNEL_OPTIONS="--remote={{.Server}}
{{- if .CA}} --remote-cafile=/etc/etcd/cacert.pem{{end}}
{{- if .Certificate}} --remote-certfile=/etc/etcd/client.crt --remote-keyfile=/etc/etcd/key.crt{{end}}"
{{else -}}
FLANNEL_ETCD="{{.EtcdURL}}"
FLANNEL_ETCD_ENDPOINTS="{{.EtcdURL}}"
FLANNEL_ETCD_KEY="{{.FlannelKey}}"
FLANNEL_ETCD_PREFIX="{{.FlannelKey}}"
{{if or .CA .Certificate -}}
FLANNEL_OPTIONS="
{{- if .CA}}--etcd-cafile=/etc/etcd/cacert.pem{{end}}
{{- if .Certificate}} --etcd-certfile=/etc/etcd/client.crt --etcd-keyfile=/etc/etcd/key.crt{{end}}"
{{end}}{{end}}`

const dockerFile = `# Written by Commissaire. Changes made here are lost.
OPTIONS="--selinux-enabled --log-driver=journald{{if .RegistryMirror}} --registry-mirror={{.RegistryMirror}}{{end}}"
DOCKER_CERT_PATH=/etc/docker
`

const rhel7Repositories = `[ -x /usr/sbin/subscription-manager ] || exit 0
extras=rhel-7-server-extras-rpms optional=rhel-7-server-optional-rpms
case $(subscription-manager repos --list-enabled) in
*"$extras"*"$optional"* | *"$optional"*"$extras"*) exit 0 ;;
esac
exec subscription-manager repos --enable="$extras" --enable="$optional"
`

// FlannelDocker is the profile that hosts get unless told otherwise.
var FlannelDocker = Profile{
	Name: "flannel-docker",
	OS:   []string{"atomic", "fedora", "rhel", "centos"},
	Steps: []Step{
		{
			Name: "enable the repositories of RHEL 7", OS: []string{"rhel"}, Release: "7", SkipOSTree: true,
			Command: rhel7Repositories,
		},
		{Name: "install flannel", SkipOSTree: true, Packages: []string{"flannel"}},
		{Name: "configure flannel", File: &File{"/etc/sysconfig/flanneld", "0644", flanneldFile}},
		{Name: "write the etcd client certificate", File: &File{"/etc/etcd/client.crt", "0644", "{{.Certificate}}"}},
		{Name: "write the etcd client key", File: &File{"/etc/etcd/key.crt", "0600", "{{.Key}}"}},
		{Name: "write the etcd CA certificate", File: &File{"/etc/etcd/cacert.pem", "0644", "{{.CA}}"}},
		{Name: "install docker", SkipOSTree: true, Packages: []string{"docker", "moby-engine"}},
		{Name: "configure docker", File: &File{"/etc/sysconfig/docker", "0644", dockerFile}},
		{Name: "start flanneld and docker", Services: []string{"flanneld", "docker"}},
	},
}

// NoProfile leaves hosts as they are.
var NoProfile = Profile{Name: "none"}

// LoadProfile gives the profile of a name: "flannel-docker" (also ""), "none",
// or the path of a JSON file, in which everything unknown is refused.
func LoadProfile(name string) (Profile, error) {
	switch name {
	case "", FlannelDocker.Name:
		return FlannelDocker, nil
	case NoProfile.Name:
		return NoProfile, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return Profile{}, fmt.Errorf("read bootstrap profile: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var p Profile
	if err := decoder.Decode(&p); err != nil {
		return Profile{}, fmt.Errorf("read bootstrap profile %s: %w", name, err)
	}
	if err := p.check(); err != nil {
		return Profile{}, fmt.Errorf("bootstrap profile %s: %w", name, err)
	}
	return p, nil
}

var (
	unitForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@._+:-]{0,127}$`) // of packages and services
	pathForm = regexp.MustCompile(`^/[^\x00-\x1f]*[^/\x00-\x1f]$`)
	modeForm = regexp.MustCompile(`^0?[0-7]{3}$`)
)

func (p Profile) check() error {
	if p.Name == "" {
		return errors.New("it has no name")
	}
	for i, step := range p.Steps {
		if err := step.check(); err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, step.Name, err)
		}
	}
	return nil
}

func (s Step) check() error {
	kinds := 0
	for _, has := range []bool{len(s.Packages) > 0, s.File != nil, s.Command != "", len(s.Services) > 0} {
		if has {
			kinds++
		}
	}
	if kinds != 1 {
		return errors.New("it must have exactly one of packages, file, command and services")
	}
	for _, name := range slices.Concat(s.Packages, s.Services) {
		if !unitForm.MatchString(name) {
			return fmt.Errorf("%q is no name of a package or service", name)
		}
	}
	if s.File == nil {
		return nil
	}
	if !pathForm.MatchString(s.File.Path) {
		return fmt.Errorf("%q is no absolute path of a file", s.File.Path)
	}
	if !modeForm.MatchString(s.File.Mode) {
		return fmt.Errorf("%q is no mode: use octal digits, e.g. 0644", s.File.Mode)
	}
	_, err := s.File.render(Values{})
	return err
}

// applies reports whether the step is one for a host.
func (s Step) applies(b process.Bootstrap) bool {
	_, version, _ := strings.Cut(b.Facts.OSRelease, " ")
	return (len(s.OS) == 0 || named(s.OS, b.Facts)) &&
		(s.Release == "" || version == s.Release || strings.HasPrefix(version, s.Release+".")) &&
		(!s.SkipOSTree || !b.Facts.OSTree)
}

func (f File) render(v Values) (string, error) {
	t, err := template.New(f.Path).Option("missingkey=error").Parse(f.Content)
	if err != nil {
		return "", fmt.Errorf("read the template of %s: %w", f.Path, err)
	}
	var text strings.Builder
	if err := t.Execute(&text, v); err != nil {
		return "", fmt.Errorf("fill in %s: %w", f.Path, err)
	}
	return text.String(), nil
}

// Bootstrap is the configuration of what hosts get. The zero value is
// FlannelDocker with an etcd on each host.
type Bootstrap struct {
	Profile        Profile
	EtcdURL        string // default http://127.0.0.1:2379; several with commas
	FlannelKey     string // default /atomic01/network
	RegistryMirror string // URL; "": none

	// Paths of PEM files, read whenever a host is bootstrapped; "": none.
	EtcdCertificate string
	EtcdKey         string
	EtcdCA          string
}

// valueForm is what may stand between double quotes in a file that shells and
// systemd read.
var valueForm = regexp.MustCompile(`^[A-Za-z0-9._:/@%,\[\]~=?&+-]*$`)

func (b Bootstrap) values(networkType string, options json.RawMessage) (Values, error) {
	v := Values{
		EtcdURL:        b.EtcdURL,
		FlannelKey:     b.FlannelKey,
		RegistryMirror: b.RegistryMirror,
		NetworkType:    networkType,
	}
	if v.EtcdURL == "" {
		v.EtcdURL = "http://127.0.0.1:2379"
	}
	if v.FlannelKey == "" {
		v.FlannelKey = "/atomic01/network"
	}
	switch networkType {
	case "":
		v.NetworkType = domain.FlannelEtcd
	case domain.FlannelEtcd:
	case domain.FlannelServer:
		var o struct {
			Address string `json:"address"`
		}
		if err := json.Unmarshal(options, &o); err != nil || o.Address == "" {
			return Values{}, errors.New("a network of type flannel_server needs the option address")
		}
		v.Server = o.Address
	default:
		return Values{}, fmt.Errorf("there is no network type %s", strconv.Quote(clip(networkType, 64)))
	}
	for name, value := range map[string]string{
		"the etcd URL": v.EtcdURL, "the flannel key": v.FlannelKey,
		"the registry mirror": v.RegistryMirror, "the network's address": v.Server,
	} {
		if !valueForm.MatchString(value) {
			return Values{}, fmt.Errorf("%s has characters that cannot be in a configuration file of a host", name)
		}
	}
	for _, file := range []struct {
		path string
		text *string
	}{{b.EtcdCertificate, &v.Certificate}, {b.EtcdKey, &v.Key}, {b.EtcdCA, &v.CA}} {
		if file.path == "" {
			continue
		}
		text, err := os.ReadFile(file.path)
		if err != nil {
			return Values{}, fmt.Errorf("read the files of the etcd client: %w", err)
		}
		*file.text = string(text)
	}
	return v, nil
}
