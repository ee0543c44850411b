package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/cloudevents"
	"commissaire/adapters/eventlog/sqlite"
)

// Reader is a log that is read, of a store or of files that were exported.
type Reader struct {
	eventlog.Feed
	Name string // as it may be shown
	Dir  string // of the store; "": it has none

	close func() error
}

// Close ends reading.
func (r Reader) Close() error { return r.close() }

// ReadFiles reads files that were exported, oldest first; - is in.
func ReadFiles(in io.Reader, files ...string) Reader {
	return Reader{Feed: cloudevents.NewFiles(in, files...), Name: strings.Join(files, ", "), close: func() error { return nil }}
}

// OpenReader opens the log to read it, also while services use it. A backup is read
// like a store. A store memory: is refused.
func (l Location) OpenReader(ctx context.Context, logger *slog.Logger) (Reader, error) {
	switch {
	case l.Shared():
		log, err := l.OpenWriter(ctx, logger)
		if err != nil {
			return Reader{}, err
		}
		return Reader{Feed: log, Name: l.Masked(), close: log.Close}, nil
	case l.Kind() == "sqlite":
		open := sqlite.OpenReader
		if isBackup(l.Dir()) {
			open = sqlite.OpenBackup
		}
		reader, err := open(ctx, l.Dir())
		if err != nil {
			return Reader{}, err
		}
		return Reader{Feed: reader, Name: l.Log, Dir: l.Dir(), close: reader.Close}, nil
	}
	return Reader{}, l.Unusable()
}

// OpenWriter opens the log to import into it, where it answers. It is refused while a
// service uses it, where only one may, and of a store memory:.
func (l Location) OpenWriter(ctx context.Context, logger *slog.Logger) (eventlog.Store, error) {
	if l.Kind() != "sqlite" && !l.Shared() {
		return nil, l.Unusable()
	}
	log, err := l.OpenLog(ctx, logger)
	if err != nil {
		return nil, err
	}
	if err := Ping(ctx, log); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return log, nil
}

// Unusable says why no program but the service can use a store that is neither
// sqlite:DIR nor esdb://….
func (l Location) Unusable() error {
	if l.Kind() == "memory" {
		return errors.New("what a store memory: has ends with the service, and no other program can read it")
	}
	return fmt.Errorf("--store must be sqlite:DIR or esdb://…, and %s is neither", l.Kind())
}

// Ping asks a log for its head, and refuses one that does not answer within 10 seconds.
func Ping(ctx context.Context, log eventlog.Store) error {
	const patience = 10 * time.Second
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := log.Head(limited)
	if limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("the store did not answer within %s", patience)
	}
	return err
}

// isBackup tells whether a directory is a backup.
func isBackup(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, ManifestFile))
	return err == nil
}
