package operation

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
	body := map[string]json.RawMessage{"only": list(n), "order": list(n)}
	policy, err := ParsePolicy(domain.Upgrade, body)
	if err != nil || len(policy.Only.Hosts) != n || len(policy.Order.First) != n {
		t.Fatalf("%v", err)
	}
	again, _ := ParsePolicy(domain.Upgrade, body)
	if !policy.Equal(again) || policy.Equal(event.DefaultPolicy()) {
		t.Error("the same is not the same")
	}
}

func TestAPolicyKnowsItsKeysInTheirOwnCaseOnly(t *testing.T) {
	for field, text := range map[string]string{
		"health": `{"Command":"true"}`, "drain": `{"Timeout":5}`, "window": `{"From":"01:00","to":"02:00","zone":"UTC"}`,
	} {
		if _, err := ParsePolicy(domain.Upgrade, map[string]json.RawMessage{field: json.RawMessage(text)}); err == nil {
			t.Errorf("%s %s is taken", field, text)
		}
	}
}

func BenchmarkParsePolicy(b *testing.B) {
	for _, n := range []int{10_000, 90_000} {
		body := map[string]json.RawMessage{"only": list(n / 2), "order": list(n / 2)}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if _, err := ParsePolicy(domain.Upgrade, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
