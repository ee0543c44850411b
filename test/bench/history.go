package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"commissaire/adapters/credentials"
	"commissaire/commands"
	"commissaire/test/longlog"
)

// write makes a store with a history as a service would have left it.
func (b *bench) write(ctx context.Context, store string, hosts, events int) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	return b.writeHistory(ctx, store, longlog.New(), key, hosts, events)
}

func (b *bench) writeHistory(ctx context.Context, store string, log *longlog.Log, key commands.Secret, hosts, events int) error {
	dir := filepath.Join(b.dir, store)
	if err := log.Write(ctx, dir, hosts, events); err != nil {
		return err
	}
	secrets, err := credentials.Open(ctx, dir, make([]byte, 32), time.Now)
	if err != nil {
		return err
	}
	return errors.Join(secrets.Store(ctx, longlog.Credential, key), secrets.Close())
}

func newKey() (commands.Secret, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}
