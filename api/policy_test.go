package api

import (
	"encoding/json"
	"fmt"
	"testing"

	"commissaire/domain"
	"commissaire/domain/event"
)

// list is n addresses in JSON, each twice.
func list(n int) json.RawMessage {
	all := make([]domain.Address, 2*n)
	for i := range n {
		all[i] = domain.Address(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
		all[n+i] = all[i]
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return text
}

func TestAnAddressGivenTwiceIsOneAlsoInLongLists(t *testing.T) {
	const n = 90_000
	b := body{"only": list(n), "order": list(n)}
	policy, err := parsePolicy(domain.Upgrade, b)
	if err != nil || len(policy.Only.Hosts) != n || len(policy.Order.First) != n {
		t.Fatalf("%v", err)
	}
	again, _ := parsePolicy(domain.Upgrade, b)
	if !policy.Equal(again) || policy.Equal(event.DefaultPolicy()) {
		t.Error("the same is not the same")
	}
}

func TestAPolicyKnowsItsKeysInTheirOwnCaseOnly(t *testing.T) {
	for field, text := range map[string]string{
		"health": `{"Command":"true"}`, "drain": `{"Timeout":5}`, "window": `{"From":"01:00","to":"02:00","zone":"UTC"}`,
	} {
		if _, err := parsePolicy(domain.Upgrade, body{field: json.RawMessage(text)}); err == nil {
			t.Errorf("%s %s is taken", field, text)
		}
	}
}

func BenchmarkParsePolicy(bench *testing.B) {
	for _, n := range []int{10_000, 90_000} {
		b := body{"only": list(n / 2), "order": list(n / 2)}
		bench.Run(fmt.Sprint(n), func(bench *testing.B) {
			for bench.Loop() {
				if _, err := parsePolicy(domain.Upgrade, b); err != nil {
					bench.Fatal(err)
				}
			}
		})
	}
}

func TestAPolicyIsTheSameWhenItIsReadFromHistory(t *testing.T) {
	asked, err := parsePolicy(domain.Upgrade, body{
		"order": json.RawMessage(`[]`), "window": json.RawMessage(`{"days": [], "from": "22:00", "to": "04:30", "zone": "UTC"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(asked)
	if err != nil {
		t.Fatal(err)
	}
	var recorded event.Policy
	if err := json.Unmarshal(text, &recorded); err != nil || !recorded.Equal(asked) {
		t.Errorf("%+v, %v, asked for as %+v", recorded.Window, err, asked.Window)
	}
}
