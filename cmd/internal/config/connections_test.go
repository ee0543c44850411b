package config

import (
	"encoding/json"
	"os"
	"testing"
)

func TestConnectionsAreKeptWithinWhatThereIsRoomFor(t *testing.T) {
	for text, want := range map[string]Connections{
		`{}`:                                    Automatic,
		`{"watch": {"keep-open": null}}`:        Automatic,
		`{"watch": {"keep-open": "automatic"}}`: Automatic,
		`{"watch.keep_open": 0}`:                0,
		`{"watch.keep-open": 700}`:              700,
	} {
		c := mustLoad(t, text, nil, nil, false)
		if c.Watch.KeepOpen != want {
			t.Errorf("%s: %d", text, c.Watch.KeepOpen)
		}
		shown, err := json.Marshal(c.Watch)
		if err != nil {
			t.Fatal(err)
		}
		if again := mustLoad(t, `{"watch": `+string(shown)+`}`, nil, nil, false); again.Watch != c.Watch {
			t.Errorf("%s: shown as %s", text, shown)
		}
	}
	if c := mustLoad(t, `{"watch.keep-open": 3}`, map[string]string{"COMMISSAIRE_WATCH_KEEP_OPEN": "automatic"}, nil, false); c.Watch.KeepOpen != Automatic {
		t.Errorf("from the environment: %d", c.Watch.KeepOpen)
	}
	for _, c := range []struct {
		files, memory uint64
		want          int
	}{
		{1024, 64 << 30, 512},                               // by files
		{1 << 20, 512 << 20, 512}, {1 << 20, 8 << 30, 8192}, // by memory
		{0, 1 << 30, 0}, {1 << 20, 0, 0}, {1 << 63, 1 << 63, 1<<31 - 1},
	} {
		if got := room(c.files, c.memory); got != c.want {
			t.Errorf("%d files, %d bytes: %d, want %d", c.files, c.memory, got, c.want)
		}
	}
	files := map[string]string{"/proc/meminfo": "MemTotal:        8000000 kB\nMemFree: 1 kB\n", "/sys/fs/cgroup/memory.max": "max\n"}
	read := func(path string) ([]byte, error) {
		if text, ok := files[path]; ok {
			return []byte(text), nil
		}
		return nil, os.ErrNotExist
	}
	if got := usableMemory(read); got != 8_000_000<<10 {
		t.Errorf("of the machine: %d", got)
	}
	files["/sys/fs/cgroup/memory.max"] = "536870912\n"
	if got := usableMemory(read); got != 512<<20 {
		t.Errorf("of the control group: %d", got)
	}
	if Automatic.Number() <= 0 || Connections(5).Number() != 5 || Connections(0).Number() != 0 {
		t.Errorf("automatic: %d", Automatic.Number())
	}
}
