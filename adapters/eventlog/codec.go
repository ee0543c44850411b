package eventlog

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	fast "github.com/go-json-experiment/json"

	"commissaire/domain/event"
)

// types lists every type of event ever written. A line never goes away: a type
// that is no longer recorded is still read.
var types = register(
	event.HostAdded{}, event.HostRemoved{},
	event.ClusterCreated{}, event.ClusterReconfigured{}, event.ClusterDeleted{},
	event.HostJoined{}, event.HostLeft{},
	event.NetworkDefined{}, event.NetworkRemoved{},
	event.ContainerManagerDefined{}, event.ContainerManagerRemoved{},
	event.HostTaken{}, event.HostReleased{}, event.TermBegun{},
	event.DeployStarted{}, event.UpgradeStarted{}, event.RestartStarted{},
	event.OperationCompleted{}, event.OperationAborted{},

	event.HostInvestigated{}, event.HostInvestigationFailed{},
	event.HostBootstrapped{}, event.HostBootstrapFailed{},
	event.HostRegistrationBegun{}, event.HostRegistered{}, event.HostUnregistered{}, event.HostRegistrationFailed{}, event.HostUncordonFailed{}, event.HostUncordoned{},
	event.HostTakeoverOrdered{}, event.HostKeyPinned{}, event.HostKeyChanged{}, event.HostKeyShownAgain{}, event.HostKeyAccepted{},
	event.HostWentSilent{}, event.HostAnswered{}, event.HostRebooted{},
	event.HostCredentialsRead{},

	event.HostTurnBegun{}, event.HostTurnExamined{},
	event.HostTurnSucceeded{}, event.HostTurnFailed{}, event.HostTurnSkipped{},
	event.HostStaged{}, event.HostTurnCordoned{}, event.HostTurnWorked{}, event.HostTurnGated{}, event.HostCleanedUp{},
	event.HostTurnRebootOrdered{}, event.HostTurnWaiting{},
	event.OperationPaused{}, event.OperationResumed{}, event.OperationCancelled{}, event.OperationAbandoned{}, event.OperationWaiting{}, event.OperationTakenUp{},

	event.SweepFinished{},
)

func register(events ...event.Event) map[string]*eventType {
	all := make(map[string]*eventType, len(events))
	for _, e := range events {
		of := reflect.TypeOf(e)
		all[e.EventType()] = &eventType{of: of, pointers: sync.Pool{New: func() any { return reflect.New(of).Interface() }}}
	}
	return all
}

// eventType is a type of event, with zero values of it to read into: an event is a
// copy, so they are used again.
type eventType struct {
	of       reflect.Type
	pointers sync.Pool
}

func (k *eventType) read(data []byte) (event.Event, error) {
	pointer := k.pointers.Get()
	value := reflect.ValueOf(pointer).Elem()
	defer func() {
		value.SetZero()
		k.pointers.Put(pointer)
	}()
	if err := fast.Unmarshal(data, pointer); err != nil {
		return nil, err
	}
	return value.Interface().(event.Event), nil
}

// Types are the names of all types of event, sorted.
func Types() []string { return slices.Sorted(maps.Keys(types)) }

// upcasters bring data of an older schema version of a type to the next one.
// The key is the type and the version that is brought up.
var upcasters = map[schemaKey]func(json.RawMessage) (json.RawMessage, error){}

// schemaKey is a version of a type's schema.
type schemaKey struct {
	Type   string
	Schema int
}

// Encode writes an event as a store keeps it.
func Encode(stream event.Stream, d event.Decided) (Raw, error) {
	data, err := json.Marshal(d.Event)
	if err != nil {
		return Raw{}, fmt.Errorf("encode %s: %w", d.Event.EventType(), err)
	}
	meta, err := json.Marshal(d.Meta)
	if err != nil {
		return Raw{}, fmt.Errorf("encode the metadata of %s: %w", d.Event.EventType(), err)
	}
	return Raw{Stream: stream, ID: d.ID, Type: d.Event.EventType(), Data: data, Meta: meta}, nil
}

// Decode reads an event as a store keeps it. An unknown type is an error that
// names it and its position: what it says cannot be left out.
//
// It reads with another library than Encode writes with: a start folds the whole
// log, and this one takes a quarter of the time.
func Decode(raw Raw) (event.Recorded, error) {
	var r event.Recorded
	if err := decode(&r, raw, types, upcasters); err != nil {
		return event.Recorded{}, err
	}
	return r, nil
}

// decode reads an event in place.
func decode(r *event.Recorded, raw Raw, types map[string]*eventType, upcasters map[schemaKey]func(json.RawMessage) (json.RawMessage, error)) error {
	*r = event.Recorded{Position: raw.Position, Stream: raw.Stream, Revision: raw.Revision, ID: raw.ID}
	fail := func(err error) error {
		return fmt.Errorf("decode %s at position %d: %w", raw.Type, raw.Position, err)
	}
	known, ok := types[raw.Type]
	if !ok {
		return fail(fmt.Errorf("this version knows no event of that type; run the version that wrote it, or a later one"))
	}
	if err := fast.Unmarshal(raw.Meta, &r.Meta); err != nil {
		return fail(fmt.Errorf("metadata: %w", err))
	}
	data := json.RawMessage(raw.Data)
	for schema := r.Meta.Schema; ; schema++ {
		up, ok := upcasters[schemaKey{raw.Type, schema}]
		if !ok {
			break
		}
		var err error
		if data, err = up(data); err != nil {
			return fail(fmt.Errorf("bring schema %d up: %w", schema, err))
		}
	}
	var err error
	if r.Event, err = known.read(data); err != nil {
		return fail(err)
	}
	return nil
}
