package memory_test

import (
	"testing"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/memory"
	"commissaire/test/logtest"
)

func TestTheContractOfAStore(t *testing.T) {
	logtest.Run(t, func(*testing.T, string) eventlog.Store { return memory.New() }, logtest.Volatile)
}
