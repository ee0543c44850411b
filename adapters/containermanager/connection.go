package containermanager

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"

	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// What an API server may send at most: a page of a list, and a file of ours.
const (
	maxAnswer = 32 << 20
	maxFile   = 1 << 20
)

// silence keeps client-go from writing to standard error. What goes wrong comes
// as an error too.
var silence = sync.OnceFunc(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })

// options are those of a definition, by name; the token is apart.
type options map[string]string

// connection is a way to an API server.
type connection struct {
	files     [3][]byte // it was made with: authorities, certificate, key
	transport *http.Transport
	api       *server
	drains    *server // the same for drains, which may ask so much that others would wait too long
}

// connect makes a connection, or gives the former one back while the files that
// it was made with have not changed. Nothing is sent.
func (c *cluster) connect(ctx context.Context) (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var o options
	if err := json.Unmarshal(c.definition.Options, &o); err != nil {
		return nil, fmt.Errorf("read the definition: %w", err)
	}
	var files [3][]byte
	for i, path := range []string{o[domain.CAPath], o[domain.CertificatePath], o[domain.CertificateKeyPath]} {
		if path == "" {
			continue
		}
		var err error
		if files[i], err = readBelow(c.config.CertificateDir, path); err != nil {
			return nil, err
		}
	}
	if c.connection != nil && bytes.Equal(c.connection.files[0], files[0]) && bytes.Equal(c.connection.files[1], files[1]) && bytes.Equal(c.connection.files[2], files[2]) {
		return c.connection, nil
	}
	made, err := c.config.connection(ctx, c.definition, o, files)
	if err != nil {
		return nil, err
	}
	if c.connection != nil {
		c.connection.transport.CloseIdleConnections()
	}
	c.connection = made
	return made, nil
}

func (c *cluster) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connection != nil {
		c.connection.transport.CloseIdleConnections()
		c.connection = nil
	}
}

// readBelow reads a file that lies in a directory, whatever links say.
func readBelow(dir, path string) (_ []byte, err error) {
	relative, err := filepath.Rel(dir, path)
	if dir == "" || err != nil || !filepath.IsLocal(relative) {
		return nil, fmt.Errorf("%s does not lie under the configured container-managers.certificate-dir", path)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("container-managers.certificate-dir: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	file, err := root.Open(relative)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(text) > maxFile:
		return nil, fmt.Errorf("read %s: it has more than %d bytes", path, maxFile)
	}
	return text, nil
}

// connection is a new one. Certificates are verified always; a token or a client
// certificate goes over TLS only; there is no proxy in between and no redirect is
// followed, so that the denied ranges hold and the token goes nowhere else.
func (config Config) connection(ctx context.Context, definition event.ContainerManagerDefined, o options, files [3][]byte) (*connection, error) {
	server := cmp.Or(o[domain.ServerURL], o[domain.APIServer])
	server = strings.TrimSuffix(strings.TrimRight(server, "/"), "/api")
	to, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("server_url: %w", err)
	}
	if to.Scheme != "https" && (definition.Credential != "" || o[domain.CertificatePath] != "") {
		return nil, errors.New("server_url is not https: neither a token nor a client certificate is used over it")
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if o[domain.CAPath] != "" {
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(files[0]) {
			return nil, fmt.Errorf("%s has no certificate", o[domain.CAPath])
		}
	}
	if o[domain.CertificatePath] != "" || o[domain.CertificateKeyPath] != "" {
		certificate, err := tls.X509KeyPair(files[1], files[2])
		if err != nil {
			return nil, fmt.Errorf("client certificate %s with key %s: %w", o[domain.CertificatePath], o[domain.CertificateKeyPath], err)
		}
		secure.Certificates = []tls.Certificate{certificate}
	}
	token := ""
	if definition.Credential != "" {
		secret, err := config.Credentials.Read(ctx, definition.Credential)
		if err != nil {
			return nil, fmt.Errorf("the token: %w", err)
		}
		token = strings.TrimSpace(string([]byte(secret)))
	}
	dialer := &net.Dialer{Timeout: config.Timeout, Control: config.Control}
	transport := &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: secure, TLSHandshakeTimeout: config.Timeout,
		ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: config.Timeout},
		IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
	settings := &rest.Config{
		Host: server, BearerToken: token, Transport: bounded{transport}, Timeout: config.Timeout,
		UserAgent: "commissaire", QPS: 50, Burst: 100, WarningHandler: rest.NoWarnings{},
		ContentConfig: rest.ContentConfig{ContentType: "application/json", AcceptContentTypes: "application/json"},
	}
	client, err := rest.HTTPClientFor(settings)
	if err != nil {
		return nil, err
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	api, err := newServer(*settings, client)
	if err != nil {
		return nil, err
	}
	drains, err := newServer(*settings, client)
	if err != nil {
		return nil, err
	}
	return &connection{files: files, transport: transport, api: api, drains: drains}, nil
}

// bounded limits what an API server may send, and keeps it from having client-go
// wait and ask again by itself, out of reach of the limits here.
type bounded struct{ *http.Transport }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Header.Del("Retry-After")
	response.Body = http.MaxBytesReader(nil, response.Body, maxAnswer)
	return response, nil
}
