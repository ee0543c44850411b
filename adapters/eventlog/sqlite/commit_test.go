package sqlite

import (
	"errors"
	"fmt"
	"testing"

	sqlite3 "modernc.org/sqlite/lib"

	"commissaire/commands"
)

// code is an error as SQLite gives it: no disk fails to sync when it is told to.
type code int

func (c code) Error() string { return fmt.Sprintf("SQLite error %d", int(c)) }
func (c code) Code() int     { return int(c) }

func TestAFailedCommitIsUnavailableOnlyWhereItNeverCanBeFound(t *testing.T) {
	for failure, want := range map[code]error{
		sqlite3.SQLITE_FULL:            commands.ErrUnavailable,
		sqlite3.SQLITE_IOERR_WRITE:     commands.ErrUnavailable,
		sqlite3.SQLITE_IOERR_FSYNC:     commands.ErrOutcomeUnknown,
		sqlite3.SQLITE_IOERR_SHMSIZE:   commands.ErrOutcomeUnknown,
		sqlite3.SQLITE_IOERR_DIR_FSYNC: commands.ErrOutcomeUnknown,
	} {
		if err := commitError(fmt.Errorf("commit: %w", failure)); !errors.Is(err, want) || !errors.Is(err, failure) {
			t.Errorf("%v gives %v, want %v", failure, err, want)
		}
	}
	if err := commitError(errors.New("something else")); !errors.Is(err, commands.ErrOutcomeUnknown) {
		t.Errorf("an error that is not of SQLite gives %v", err)
	}
}
