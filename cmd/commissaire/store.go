package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"commissaire/adapters/credentials"
	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/eventstoredb"
	"commissaire/adapters/eventlog/memory"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/commands"
	"commissaire/commands/sleep"
)

// storeName says where a log and the credentials of its hosts are.
type storeName struct {
	log  string // sqlite:DIR, esdb://… or memory:
	keys string // of a shared store: file:DIR or exec:COMMAND

	options eventstoredb.Options
}

func (n storeName) kind() string { kind, _, _ := strings.Cut(n.log, ":"); return kind }

func (n storeName) dir() string { return strings.TrimPrefix(n.log, "sqlite:") }

// shared tells whether several instances use the store.
func (n storeName) shared() bool { return n.kind() == "esdb" || n.kind() == "esdb+discover" }

// check refuses what cannot be opened whatever there is. The names of log and
// keys are those that the operator knows them by.
func (n storeName) check(log, keys string) error {
	keysKind, keysPlace, _ := strings.Cut(n.keys, ":")
	switch {
	case n.kind() != "sqlite" && n.kind() != "memory" && !n.shared():
		return fmt.Errorf("%s must be sqlite:DIR, esdb://… or memory:, and %s is none of them", log, n.kind())
	case n.log == "sqlite:":
		return fmt.Errorf("%s sqlite: needs a directory, as in sqlite:/var/lib/commissaire", log)
	case n.shared() && !strings.HasPrefix(n.log, n.kind()+"://"):
		return fmt.Errorf("%s %s: needs a connection string, as in esdb://HOST:2113", log, n.kind())
	case n.shared() && n.keys == "":
		return fmt.Errorf("%s %s:// needs %s: file:DIR (on a file system that all instances share) or exec:COMMAND", log, n.kind(), keys)
	case n.shared() && (keysKind != "file" && keysKind != "exec" || keysPlace == ""):
		return fmt.Errorf("%s must be file:DIR or exec:COMMAND", keys)
	case !n.shared() && n.keys != "":
		return fmt.Errorf("%s is for a store esdb://…: with %s: the keys lie where the credentials do", keys, n.kind())
	}
	return nil
}

// maskedStore is a connection string without the password.
func maskedStore(log string) string {
	scheme, rest, ok := strings.Cut(log, "://")
	at := strings.LastIndex(rest, "@")
	if !ok || at < 0 {
		return log
	}
	user, _, _ := strings.Cut(rest[:at], ":")
	return scheme + "://" + user + ":********" + rest[at:]
}

// openLog is a log that is open, and the right to lead in it.
type openLog interface {
	eventlog.Store
	eventlog.Lease
}

// store is a log that is open, with its credentials.
type store struct {
	log     openLog
	secrets *credentials.Store
}

// open opens both. Of a store that one instance uses, it is refused while another
// program has it; one that several use is waited for while it is away.
func (n storeName) open(ctx context.Context, masterKey string, logger *slog.Logger) (_ store, err error) {
	var s store
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	master, err := credentials.MasterKey(ctx, masterKey)
	if err != nil {
		return s, err
	}
	if err := n.apart(masterKey); err != nil {
		return s, err
	}
	if s.log, err = n.openLog(ctx, logger); err != nil {
		return s, err
	}
	return s, n.there(ctx, logger, func() (err error) {
		s.secrets, err = n.openSecrets(ctx, s.log, master)
		return err
	})
}

// there does something with a store, and again while one that several instances
// use is away: it may come up later than the service. What a server refuses is
// not waited for.
func (n storeName) there(ctx context.Context, logger *slog.Logger, do func() error) error {
	for said := ""; ; {
		err := do()
		if err == nil || ctx.Err() != nil || !n.shared() || !errors.Is(err, commands.ErrUnavailable) || eventstoredb.Refused(err) {
			return err
		}
		if said != err.Error() {
			said = err.Error()
			logger.Warn("the store is away; the service starts when it is there", "error", err)
		}
		if err := sleep.For(ctx, redeliverAfter); err != nil {
			return err
		}
	}
}

// apart refuses a master key that lies with what it opens.
func (n storeName) apart(masterKey string) error {
	if dir, ok := strings.CutPrefix(n.keys, "file:"); ok {
		return apart("master key", masterKey, "the directory of the keys that it opens,", dir)
	}
	if n.kind() == "sqlite" {
		return apart("master key", masterKey, "the store's directory", n.dir())
	}
	return nil
}

func (n storeName) openLog(ctx context.Context, logger *slog.Logger) (openLog, error) {
	switch {
	case n.kind() == "memory":
		return memory.New(), nil
	case n.shared():
		log, err := eventstoredb.Open(n.log, logger, n.options)
		if err != nil {
			return nil, err // and not a nil pointer that is no nil
		}
		return log, nil
	}
	log, err := sqlite.Open(ctx, n.dir())
	if err != nil {
		return nil, err
	}
	return log, nil
}

// openSecrets opens the credentials of a log that openLog opened.
func (n storeName) openSecrets(ctx context.Context, log eventlog.Store, master []byte) (*credentials.Store, error) {
	blobs, ok := log.(credentials.Blobs)
	switch {
	case n.shared() && ok:
		keys, err := credentials.OpenKeys(n.keys)
		if err != nil {
			return nil, err
		}
		return credentials.OpenShared(ctx, keys, blobs, master, time.Now)
	case n.kind() == "memory":
		return credentials.Open(ctx, "", master, time.Now)
	}
	return credentials.Open(ctx, n.dir(), master, time.Now)
}

func (s store) close() error {
	var err error
	if s.secrets != nil {
		err = s.secrets.Close()
	}
	if s.log != nil {
		err = errors.Join(err, s.log.Close())
	}
	return err
}

// apart refuses a secret of which the source is a file that lies in a directory,
// whatever links lead there.
func apart(what, source, where, dir string) error {
	path, isFile := strings.CutPrefix(source, "file:")
	if !isFile {
		return nil
	}
	inside, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing lies in it
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	named, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	real, err := filepath.EvalSymlinks(named)
	if errors.Is(err, fs.ErrNotExist) { // it will be made where its directory is
		real, err = filepath.EvalSymlinks(filepath.Dir(named))
		real = filepath.Join(real, filepath.Base(named))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, key := range []string{named, real} {
		for at := key; at != filepath.Dir(at); {
			at = filepath.Dir(at)
			if above, err := os.Stat(at); err == nil && os.SameFile(above, inside) {
				return fmt.Errorf("%s: %s lies in %s %s; keep it elsewhere, so that a copy of that opens nothing", what, path, where, dir)
			}
		}
	}
	return nil
}
