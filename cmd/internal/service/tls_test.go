package service

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/files"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := authority{&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}, key}
	der, err := x509.CreateCertificate(rand.Reader, a.certificate, a.certificate, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a.certificate, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// issue gives a certificate for 127.0.0.1 and its key, in one PEM.
func (a authority) issue(t *testing.T, serial int64) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "end"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// serveTLS answers every request until the test ends.
func serveTLS(t *testing.T, conf config.Config, logger *slog.Logger) (address string) {
	t.Helper()
	settings, err := tlsConfig(conf, logger)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", settings)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:  http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo), ReadHeaderTimeout: time.Minute,
	}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// get makes a request on a connection of its own and gives the serial number of
// the server's certificate.
func get(t *testing.T, address string, client *tls.Config) (int64, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: client, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	if err := answer.Body.Close(); err != nil {
		return 0, err
	}
	return answer.TLS.PeerCertificates[0].SerialNumber.Int64(), nil
}

// put replaces a file at once, as those who renew certificates do.
func put(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := files.WritePrivate(path, string(text)); err != nil {
		t.Fatal(err)
	}
}

func TestTheCertificateIsReadAgainWhenItChanges(t *testing.T) {
	a, path := newAuthority(t), filepath.Join(t.TempDir(), "server.pem")
	first := a.issue(t, 1)
	put(t, path, first)
	var log bytes.Buffer
	address := serveTLS(t, config.Config{TLSPEMFile: path}, slog.New(slog.NewTextHandler(&log, nil)))
	expect := func(want int64) {
		t.Helper()
		for range 3 {
			if got, err := get(t, address, &tls.Config{RootCAs: a.pool()}); err != nil || got != want {
				t.Fatalf("certificate %d, %v; want %d", got, err, want)
			}
		}
	}
	expect(1)
	put(t, path, a.issue(t, 2))
	expect(2)

	other := a.issue(t, 3)
	mixed := append(bytes.Clone(first[:bytes.Index(first, []byte("-----BEGIN PRIVATE"))]), other[bytes.Index(other, []byte("-----BEGIN PRIVATE")):]...)
	for name, bad := range map[string][]byte{"empty": nil, "another key": mixed, "half": other[:100]} {
		log.Reset()
		put(t, path, bad)
		expect(2)
		if n := strings.Count(log.String(), "\n"); n != 1 || strings.Contains(log.String(), "PRIVATE") {
			t.Errorf("%s: reported %d times: %s", name, n, log.String())
		}
	}
	log.Reset()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect(2)
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("a missing file was reported %d times: %s", n, log.String())
	}
	put(t, path, other)
	expect(3)
}

func TestOldTLSIsRefused(t *testing.T) {
	a, path := newAuthority(t), filepath.Join(t.TempDir(), "server.pem")
	put(t, path, a.issue(t, 1))
	address := serveTLS(t, config.Config{TLSPEMFile: path}, slog.New(slog.DiscardHandler))
	for version, taken := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		if _, err := get(t, address, &tls.Config{RootCAs: a.pool(), MinVersion: version, MaxVersion: version}); (err == nil) != taken {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}

func TestClientsMustShowACertificateOfTheAuthority(t *testing.T) {
	a, stranger, dir := newAuthority(t), newAuthority(t), t.TempDir()
	server, authorities := filepath.Join(dir, "server.pem"), filepath.Join(dir, "ca.pem")
	put(t, server, a.issue(t, 1))
	put(t, authorities, a.pem())
	address := serveTLS(t, config.Config{TLSPEMFile: server, TLSClientVerifyFile: authorities}, slog.New(slog.DiscardHandler))
	for name, c := range map[string]struct {
		by    *authority
		taken bool
	}{"none": {nil, false}, "a stranger's": {&stranger, false}, "a good one": {&a, true}} {
		client := &tls.Config{RootCAs: a.pool()}
		if c.by != nil {
			text := c.by.issue(t, 5)
			pair, err := tls.X509KeyPair(text, text)
			if err != nil {
				t.Fatal(err)
			}
			client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		if _, err := get(t, address, client); (err == nil) != c.taken {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadTLSFilesAreRefusedAtTheStart(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	good, bad := filepath.Join(dir, "good.pem"), filepath.Join(dir, "bad.pem")
	put(t, good, a.issue(t, 1))
	put(t, bad, []byte("nothing"))
	for name, conf := range map[string]config.Config{
		"no file":        {TLSPEMFile: filepath.Join(dir, "none")},
		"no certificate": {TLSPEMFile: bad},
		"no authority":   {TLSPEMFile: good, TLSClientVerifyFile: bad},
		"no verify file": {TLSPEMFile: good, TLSClientVerifyFile: filepath.Join(dir, "none")},
	} {
		if settings, err := tlsConfig(conf, slog.New(slog.DiscardHandler)); err == nil || settings != nil {
			t.Errorf("%s was taken", name)
		}
	}
	if settings, err := tlsConfig(config.Config{}, slog.New(slog.DiscardHandler)); settings != nil || err != nil {
		t.Errorf("without a file: %v, %v", settings, err)
	}
}
