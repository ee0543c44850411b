package cloudevents_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/cloudevents"
	"commissaire/domain/event"
)

// odd is events with what an encoder would write otherwise.
func odd() []eventlog.Raw {
	var all []eventlog.Raw
	for i, data := range []string{
		`{"host":"10.0.0.1","n":1.0,"é":"\u00e9<>&\ud83d\ude00"}`,
		`{ "blank": 1}`, `{"twice":1,"twice":2}`, "{\"line\":\n1}", `{"n":1} `, "\xff{}", "", "no JSON", `null`,
		`{"large":"` + strings.Repeat("x", 3<<20) + `"}`,
	} {
		meta := []byte(`{"$correlationId":"c","time":"2026-01-02T03:04:05.678901Z", "reason":"\u0007 \"quoted\" \u2028"}`)
		switch i {
		case 1:
			meta = []byte("{}")
		case 2:
			meta = []byte("\xfe")
		case 3:
			meta = nil
		}
		all = append(all, eventlog.Raw{
			Position: event.Position(1) << (3 * i), Stream: "host-ü /%25?#", Revision: event.Revision(i),
			ID: uuid.New(), Type: "HostAdded", Data: []byte(data), Meta: meta,
		})
	}
	return all
}

func write(t *testing.T, how cloudevents.Compression, events []eventlog.Raw) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := cloudevents.NewWriter(&file, how)
	if err == nil {
		err = errors.Join(w.Write(events), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// read is the events of files with these contents, and what ended them.
func read(t *testing.T, contents ...[]byte) (events []eventlog.Raw, failure error) {
	t.Helper()
	var names []string
	for i, content := range contents {
		names = append(names, filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err := os.WriteFile(names[i], content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for batch, err := range cloudevents.NewFiles(nil, names...).Follow(t.Context(), 0) {
		if err != nil {
			return events, err
		}
		if len(batch) == 0 {
			return events, nil
		}
		events = append(events, batch...)
	}
	t.Fatal("no head")
	return nil, nil
}

func same(t *testing.T, got, want []eventlog.Raw) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i := range want {
		got[i].Data, got[i].Meta = append([]byte{}, got[i].Data...), append([]byte{}, got[i].Meta...)
		want[i].Data, want[i].Meta = append([]byte{}, want[i].Data...), append([]byte{}, want[i].Meta...)
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("event %d is %v %.200q %.200q, was %v %.200q %.200q", i, got[i].Position, got[i].Data, got[i].Meta, want[i].Position, want[i].Data, want[i].Meta)
		}
	}
}

func TestEveryByteComesBack(t *testing.T) {
	for _, how := range []cloudevents.Compression{cloudevents.None, cloudevents.Gzip, cloudevents.Zstd} {
		t.Run("compression "+string(how), func(t *testing.T) {
			events := odd()
			whole, err := read(t, write(t, how, events))
			if err != nil {
				t.Fatal(err)
			}
			same(t, whole, events)
			parts, err := read(t, append(write(t, how, events[:4]), write(t, how, events[4:7])...), write(t, how, events[7:]))
			if err != nil {
				t.Fatal(err)
			}
			same(t, parts, events)
		})
	}
}

func TestALineIsACloudEvent(t *testing.T) {
	for i, text := range bytes.Split(bytes.TrimSpace(write(t, cloudevents.None, odd())), []byte("\n")) {
		var attributes map[string]any
		if err := json.Unmarshal(text, &attributes); err != nil {
			t.Fatal(err)
		}
		for name, value := range attributes {
			if _, isText := value.(string); !isText && name != "data" || name != "data_base64" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
				t.Errorf("event %d has the attribute %s: %v", i, name, value)
			}
		}
		for _, required := range []string{"specversion", "id", "source", "type"} {
			if attributes[required] == "" {
				t.Errorf("event %d has no %s", i, required)
			}
		}
	}
	data := []byte(`{"host":"a"}`)
	text := write(t, cloudevents.None, []eventlog.Raw{{Position: 7, Stream: "roster", Revision: 3, Type: "HostAdded", Data: data, Meta: []byte(`{"time":"2026-01-02T03:04:05Z"}`)}})
	const want = `{"specversion":"1.0","id":"00000000-0000-0000-0000-000000000000","source":"/streams/roster","type":"HostAdded","time":"2026-01-02T03:04:05Z",` +
		`"datacontenttype":"application/json","revision":"3","position":"7","metadata":"{\"time\":\"2026-01-02T03:04:05Z\"}","data":{"host":"a"}}` + "\n"
	if string(text) != want {
		t.Errorf("written\n%swant\n%s", text, want)
	}
}

func TestDamageIsNamedByItsLine(t *testing.T) {
	events := odd()[:8]
	plain := write(t, cloudevents.None, events)
	lines := bytes.SplitAfter(plain, []byte("\n"))
	replaced := func(old, new string) []byte { return bytes.Replace(plain, []byte(old), []byte(new), 1) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		files [][]byte
		line  int
	}{
		"cut off within a line":      {[][]byte{plain[:len(plain)-10]}, 8},
		"without the last line end":  {[][]byte{plain[:len(plain)-1]}, 8},
		"a line that is none":        {[][]byte{join(lines[0], []byte("{}\n"), plain[len(lines[0]):])}, 2},
		"an empty line":              {[][]byte{join(lines[0], []byte("\n"), plain[len(lines[0]):])}, 2},
		"an unknown attribute":       {[][]byte{replaced(`"revision"`, `"revisionx"`)}, 1},
		"no base64":                  {[][]byte{replaced(`data_base64":"`, `data_base64":"!`)}, 2},
		"two lines in another order": {[][]byte{join(lines[0], lines[2], lines[1])}, 3},
		"a file that is there twice": {[][]byte{plain, plain}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(t, c.files...)
			damage, ok := errors.AsType[*cloudevents.Damage](err)
			if !ok || damage.Line != c.line {
				t.Fatalf("%v, want line %d", err, c.line)
			}
			if len(c.files) == 1 && len(got) != c.line-1 {
				t.Errorf("%d events before line %d", len(got), c.line)
			}
		})
	}
	for _, how := range []cloudevents.Compression{cloudevents.Gzip, cloudevents.Zstd} {
		packed := write(t, how, events)
		for _, n := range []int{1, 4, 9, 20, len(packed) / 2} {
			if _, err := read(t, packed[:len(packed)-n]); err == nil {
				t.Errorf("%s: the last %d bytes are gone, and nobody sees it", how, n)
			}
		}
		packed[len(packed)/2] ^= 1
		if _, err := read(t, packed); err == nil {
			t.Errorf("%s: a bit is another, and nobody sees it", how)
		}
	}
}
