package eventlog

import (
	"reflect"
	"testing"

	"commissaire/domain"
	"commissaire/domain/event"
)

// TestEveryEventConcernsWhatItNames holds what each event says that it is about
// against the host, the cluster and the operation among its fields.
func TestEveryEventConcernsWhatItNames(t *testing.T) {
	for name, known := range types {
		e := filled(t, known.of)
		var want event.Subjects
		for _, field := range reflect.VisibleFields(known.of) {
			switch value := reflect.ValueOf(e).FieldByIndex(field.Index).Interface().(type) {
			case domain.Address:
				want.Host = value
			case domain.ClusterName:
				want.Cluster = value
			case domain.OperationID:
				want.Operation = value
			case domain.CredentialID:
				if _, ok := e.(event.RosterEvent); !ok {
					t.Errorf("%s names a credential, and only the roster's events are asked for them", name)
				}
			}
		}
		if got := event.SubjectsOf(e); got != want {
			t.Errorf("%s concerns %+v, and names %+v", name, got, want)
		}
	}
}

func TestEveryStartIsOfItsKind(t *testing.T) {
	n := 0
	for name, known := range types {
		if e, ok := filled(t, known.of).(event.OperationStarted); ok {
			n++
			if again := e.Start().Event(); !reflect.DeepEqual(again, e) {
				t.Errorf("the start in %s makes %#v", name, again)
			}
		}
	}
	if n != 3 {
		t.Errorf("%d types of events start an operation", n)
	}
}
