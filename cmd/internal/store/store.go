// Package store opens a log by its URL, with the credentials that lie with it, and
// knows what lies beside it in the store's directory.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// What lies beside the log in a store's directory.
const (
	OutputDir    = "output"      // what hosts printed
	SnapshotsDir = "snapshots"   // of the views
	TreeDir      = "tree"        // the Merkle tree over the log
	ManifestFile = "backup.json" // only of a backup: what it is
)

// Location says where a log and the credentials of its hosts are.
type Location struct {
	Log  string // sqlite:DIR, esdb://… or memory:
	Keys string // of a shared store: file:DIR or exec:COMMAND

	Options eventstoredb.Options
}

// Kind is what the log's URL begins with: sqlite, memory, esdb or esdb+discover.
func (l Location) Kind() string { kind, _, _ := strings.Cut(l.Log, ":"); return kind }

// Dir is the directory of a store sqlite:DIR.
func (l Location) Dir() string { return strings.TrimPrefix(l.Log, "sqlite:") }

// Shared tells whether several instances use the store.
func (l Location) Shared() bool { return l.Kind() == "esdb" || l.Kind() == "esdb+discover" }

// Masked is the log's URL without the password.
func (l Location) Masked() string {
	scheme, rest, ok := strings.Cut(l.Log, "://")
	end := strings.LastIndex(rest, "@")
	if !ok || end < 0 {
		return l.Log
	}
	user, _, _ := strings.Cut(rest[:end], ":")
	return scheme + "://" + user + ":********" + rest[end:]
}

// Check refuses what cannot be opened whatever there is. log and keys are the names
// by which the operator knows them.
func (l Location) Check(log, keys string) error {
	kind := l.Kind()
	switch {
	case kind != "sqlite" && kind != "memory" && !l.Shared():
		return fmt.Errorf("%s must be sqlite:DIR, esdb://… or memory:, and %s is none of them", log, kind)
	case l.Log == "sqlite:":
		return fmt.Errorf("%s sqlite: needs a directory, as in sqlite:/var/lib/commissaire", log)
	case l.Shared():
		return l.checkShared(log, keys)
	case l.Keys != "":
		return fmt.Errorf("%s is for a store esdb://…: with %s: the keys lie where the credentials do", keys, kind)
	}
	return nil
}

func (l Location) checkShared(log, keys string) error {
	kind, place, _ := strings.Cut(l.Keys, ":")
	switch {
	case !strings.HasPrefix(l.Log, l.Kind()+"://"):
		return fmt.Errorf("%s %s: needs a connection string, as in esdb://HOST:2113", log, l.Kind())
	case l.Keys == "":
		return fmt.Errorf("%s %s:// needs %s: file:DIR (on a file system that all instances share) or exec:COMMAND", log, l.Kind(), keys)
	case kind != "file" && kind != "exec" || place == "":
		return fmt.Errorf("%s must be file:DIR or exec:COMMAND", keys)
	}
	return nil
}

// Log is a log that is open, and the right to lead in it.
type Log interface {
	eventlog.Store
	eventlog.Lease
}

// Store is a log that is open, with its credentials.
type Store struct {
	Log     Log
	Secrets *credentials.Store
}

// Open opens both; masterKey is file:PATH, env:NAME or exec:COMMAND. It refuses a
// store that one instance uses while another program has it open, and waits for one
// that several use while that is away.
func (l Location) Open(ctx context.Context, masterKey string, logger *slog.Logger) (_ Store, err error) {
	var s Store
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	master, err := credentials.MasterKey(ctx, masterKey)
	if err != nil {
		return s, err
	}
	if err := l.RefuseInside("master key", masterKey); err != nil {
		return s, err
	}
	if s.Log, err = l.OpenLog(ctx, logger); err != nil {
		return s, err
	}
	return s, l.RetryWhileAway(ctx, logger, func() (err error) {
		s.Secrets, err = l.OpenSecrets(ctx, s.Log, master)
		return err
	})
}

// Close closes what is open.
func (s Store) Close() error {
	var err error
	if s.Secrets != nil {
		err = s.Secrets.Close()
	}
	if s.Log != nil {
		err = errors.Join(err, s.Log.Close())
	}
	return err
}

const retryAfter = time.Second

// RetryWhileAway does something with a store, and does it again while one that several
// instances use is away: the store may start later than the service. What a server
// refuses is not tried again.
func (l Location) RetryWhileAway(ctx context.Context, logger *slog.Logger, do func() error) error {
	for logged := ""; ; {
		err := do()
		if err == nil || ctx.Err() != nil || !l.Shared() || !errors.Is(err, commands.ErrUnavailable) || eventstoredb.Refused(err) {
			return err
		}
		if logged != err.Error() {
			logged = err.Error()
			logger.Warn("the store is away; the service starts when it is there", "error", err)
		}
		if err := sleep.For(ctx, retryAfter); err != nil {
			return err
		}
	}
}

// OpenLog opens the log alone.
func (l Location) OpenLog(ctx context.Context, logger *slog.Logger) (Log, error) {
	switch {
	case l.Kind() == "memory":
		return memory.New(), nil
	case l.Shared():
		log, err := eventstoredb.Open(l.Log, logger, l.Options)
		if err != nil {
			return nil, err // and not a nil pointer, which would not be a nil Log
		}
		return log, nil
	}
	log, err := sqlite.Open(ctx, l.Dir())
	if err != nil {
		return nil, err
	}
	return log, nil
}

// OpenSecrets opens the credentials of a log that OpenLog opened.
func (l Location) OpenSecrets(ctx context.Context, log eventlog.Store, master []byte) (*credentials.Store, error) {
	blobs, ok := log.(credentials.Blobs)
	switch {
	case l.Shared() && ok:
		keys, err := credentials.OpenKeys(l.Keys)
		if err != nil {
			return nil, err
		}
		return credentials.OpenShared(ctx, keys, blobs, master, time.Now)
	case l.Kind() == "memory":
		return credentials.Open(ctx, "", master, time.Now)
	}
	return credentials.Open(ctx, l.Dir(), master, time.Now)
}
