package eventlog

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"commissaire/domain"
	"commissaire/domain/event"

	"github.com/google/uuid"
)

var update = flag.Bool("update", false, "write the golden files anew")

// filled is an event of a type with something in every field.
func filled(t *testing.T, of reflect.Type) event.Event {
	t.Helper()
	value := reflect.New(of).Elem()
	fill(t, value)
	return value.Interface().(event.Event)
}

func fill(t *testing.T, v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)))
		return
	case json.RawMessage:
		v.SetBytes([]byte(`{"key":"value"}`))
		return
	case event.Amount: // these have a form of their own
		v.Set(reflect.ValueOf(event.Amount{N: 25, Percent: true}))
		return
	case event.Drain:
		v.Set(reflect.ValueOf(event.Drain{Timeout: 7, Grace: 7, Continue: true}))
		return
	case event.Order:
		v.Set(reflect.ValueOf(event.Order{First: []domain.Address{"text"}}))
		return
	case event.Only:
		v.Set(reflect.ValueOf(event.Only{Hosts: []domain.Address{"text"}}))
		return
	case event.Reboot:
		v.Set(reflect.ValueOf(event.RebootIfNeeded))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0))
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(t, field)
		}
	default:
		t.Fatalf("no way to fill a %s", v.Type())
	}
}

// TestEveryTypeIsStoredAsItWas holds the storage form of every event against its
// golden file: what was written once must be read for ever.
func TestEveryTypeIsStoredAsItWas(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(types)) {
		t.Run(name, func(t *testing.T) {
			e := filled(t, types[name].of)
			raw, err := Encode("stream", event.Decided{ID: uuid.New(), Meta: event.Meta{Schema: 1}, Event: e})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, append(raw.Data, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("no golden file: %v", err)
			}
			if !bytes.Equal(bytes.TrimSpace(golden), raw.Data) {
				t.Errorf("stored as\n%s\nwas\n%s", raw.Data, golden)
			}
			raw.Data = golden
			read, err := Decode(raw)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(read.Event, e) {
				t.Errorf("read as %+v, was %+v", read.Event, e)
			}
		})
	}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != len(types) {
		t.Errorf("%d golden files for %d types: a type that was ever written stays readable (%v)", len(files), len(types), err)
	}
}

func TestAnOlderSchemaIsBroughtUp(t *testing.T) {
	ups := map[schemaKey]func(json.RawMessage) (json.RawMessage, error){
		{"HostRemoved", 1}: func(data json.RawMessage) (json.RawMessage, error) {
			return bytes.ReplaceAll(data, []byte(`"ip"`), []byte(`"address"`)), nil
		},
		{"HostRemoved", 2}: func(data json.RawMessage) (json.RawMessage, error) {
			return bytes.ReplaceAll(data, []byte(`"address"`), []byte(`"host"`)), nil
		},
	}
	raw := Raw{Type: "HostRemoved", Meta: []byte(`{"schema":1}`), Data: []byte(`{"host_id":"h","ip":"10.0.0.1"}`)}
	var r event.Recorded
	err := decode(&r, raw, types, ups)
	if err != nil {
		t.Fatal(err)
	}
	if want := (event.HostRemoved{HostID: "h", Host: "10.0.0.1"}); r.Event != want {
		t.Errorf("got %+v, want %+v", r.Event, want)
	}
}

func TestAnUnknownTypeIsNamedWithItsPosition(t *testing.T) {
	_, err := Decode(Raw{Type: "HostPainted", Position: 42, Meta: []byte(`{}`), Data: []byte(`{}`)})
	if err == nil || !strings.Contains(err.Error(), "HostPainted at position 42") {
		t.Errorf("got %v", err)
	}
}
