package process

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/memory"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/event"
)

// TestWhatCannotBeRecordedIsNotTriedAgainAtOnce looks every second at what an
// operation calls for while nothing can be recorded.
func TestWhatCannotBeRecordedIsNotTriedAgainAtOnce(t *testing.T) {
	const delay, looks = 5, 20 // seconds
	for term, what := range map[domain.Term]string{
		0: "taking a host failed",
		1: "a decision about an operation could not be recorded", // that it is taken up
	} {
		synctest.Test(t, func(t *testing.T) {
			store := memory.New()
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			var logged strings.Builder
			p := New(Config{
				Commands:   commands.New(commands.Config{Log: eventlog.NewLog(store), Now: time.Now, NewID: uuid.New}),
				RetryDelay: delay * time.Second, NewID: uuid.New, Now: time.Now, Logger: slog.New(slog.NewTextHandler(&logged, nil)),
			})
			p.term = term
			member := event.Member{HostID: "h", Host: "10.0.0.1"}
			for i, e := range []struct {
				on event.Stream
				event.Event
			}{
				{event.RosterStream, event.ClusterCreated{ClusterID: "i", Cluster: "c"}},
				{event.RosterStream, event.HostAdded{HostID: "h", Host: member.Host}},
				{event.RosterStream, event.HostJoined{HostID: "h", Host: member.Host, ClusterID: "i", Cluster: "c"}},
				{event.HostStream("h"), event.HostBootstrapped{Host: member.Host}},
				{event.RosterStream, event.RestartStarted{Started: event.Started{
					Operation: "o", ClusterID: "i", Cluster: "c", Hosts: []event.Member{member}, Policy: event.DefaultPolicy(),
				}}},
			} {
				p.Apply(event.Recorded{Position: event.Position(i + 1), Stream: e.on, Event: e.Event})
			}
			for range looks {
				p.act(t.Context())
				time.Sleep(time.Second)
			}
			synctest.Wait()
			if n := strings.Count(logged.String(), what); n != looks/delay {
				t.Errorf("%q %d times in %d s, want %d", what, n, looks, looks/delay)
			}
		})
	}
}

func TestAReasonIsCutBetweenRunes(t *testing.T) {
	for _, text := range []string{"short", strings.Repeat("é", 512), "x" + strings.Repeat("é", 600), "xy" + strings.Repeat("語", 400)} {
		got := reason(errors.New(text))
		if !utf8.ValidString(got) || !strings.HasPrefix(text, got) || len(got) > 1024 || len(got) < min(len(text), 1024-utf8.UTFMax) {
			t.Errorf("of %d bytes it keeps %d: …%q", len(text), len(got), got[max(0, len(got)-6):])
		}
	}
}

func TestAReasonIsOneLineThatCanBePrinted(t *testing.T) {
	got := reason(errors.New("GET http://10.0.0.1/ was answered 500 \x1b[2J\x00gone\r\n\xff\xfe\u202etoo\n"))
	if got != "GET http://10.0.0.1/ was answered 500 [2Jgone  \uFFFDtoo" {
		t.Errorf("%q", got)
	}
	for text, want := range map[string]string{"Verification code: \n": "Verification code", "\x00": "nobody said why", "": "nobody said why"} {
		if got := reason(errors.New(text)); got != want {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestHowACommandFailedIsNeverLeftOpen(t *testing.T) {
	exit := func(n int) *int { return &n }
	for _, c := range []struct {
		result Result
		want   string
		failed bool
	}{
		{Result{Exit: exit(0), Said: "Complete!"}, "", false},
		{Result{Exit: exit(4), Said: "error: no room"}, "ended with exit status 4: error: no room", true},
		{Result{Exit: exit(4)}, "ended with exit status 4: it printed nothing", true},
		{Result{Interrupted: "interrupted by a reboot"}, "was interrupted by a reboot", true},
	} {
		if how, failed := c.result.Failed(); failed != c.failed || failed && how != c.want {
			t.Errorf("%+v: %q, %v", c.result, how, failed)
		}
	}
}
