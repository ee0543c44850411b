package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// tlsConfig is nil where no certificate is configured. The file has certificate
// and key; it is read again when it changes, and a bad one changes nothing.
func tlsConfig(config Config, logger *slog.Logger) (*tls.Config, error) {
	if config.TLSPEMFile == "" {
		return nil, nil
	}
	c := &certificate{path: config.TLSPEMFile, logger: logger}
	if _, err := c.get(nil); err != nil {
		return nil, fmt.Errorf("tls-pemfile: %w", err)
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"http/1.1"}}
	if config.TLSClientVerifyFile != "" {
		text, err := os.ReadFile(config.TLSClientVerifyFile)
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
	read time.Time
	pair *tls.Certificate
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.path)
	if err == nil && !info.ModTime().Equal(c.read) {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.path, c.path); err == nil {
			c.pair, c.read = &pair, info.ModTime()
		}
	}
	if err != nil && c.pair != nil {
		c.logger.Warn("the certificate could not be read again; the one before stays", "error", err)
		return c.pair, nil
	}
	return c.pair, err
}
