package service

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"commissaire/cmd/internal/config"
)

// tlsConfig is nil where no certificate is configured. The file has certificate
// and key; it is read again when it changes, and a bad one changes nothing.
func tlsConfig(conf config.Config, logger *slog.Logger) (*tls.Config, error) {
	if conf.TLSPEMFile == "" {
		return nil, nil
	}
	c := &certificate{path: conf.TLSPEMFile, logger: logger}
	if _, err := c.get(nil); err != nil {
		return nil, fmt.Errorf("tls-pemfile: %w", err)
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"http/1.1"}}
	if conf.TLSClientVerifyFile != "" {
		text, err := os.ReadFile(conf.TLSClientVerifyFile)
		if err != nil {
			return nil, fmt.Errorf("tls-clientverifyfile: %w", err)
		}
		settings.ClientCAs, settings.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !settings.ClientCAs.AppendCertsFromPEM(text) {
			return nil, errors.New("tls-clientverifyfile: there is no certificate in it")
		}
	}
	return settings, nil
}

type certificate struct {
	path   string
	logger *slog.Logger

	mu   sync.Mutex
	seen os.FileInfo // of the file, when it was last looked into; nil: it could not be
	pair *tls.Certificate
}

// get gives the certificate of the file, or that of before where the file is bad
// by now, which is logged once.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.path)
	switch {
	case err != nil && c.seen == nil && c.pair != nil:
		return c.pair, nil
	case err != nil:
		c.seen = nil
	case c.seen != nil && os.SameFile(info, c.seen) && info.ModTime().Equal(c.seen.ModTime()) && info.Size() == c.seen.Size():
		return c.pair, nil
	default:
		c.seen = info // before it is read: what changes meanwhile is seen the next time
		err = c.load()
	}
	if err != nil && c.pair != nil {
		c.logger.Error("the certificate could not be read again; the one before stays", "error", err)
		err = nil
	}
	return c.pair, err
}

func (c *certificate) load() error {
	text, err := os.ReadFile(c.path)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return fmt.Errorf("read certificate and key from %s: %w", c.path, err)
	}
	c.pair = &pair
	return nil
}
