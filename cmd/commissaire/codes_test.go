package main

import (
	"slices"
	"strings"
	"testing"

	"commissaire/domain"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestTheDocumentHasEveryCode holds the document against all rules of this program.
func TestTheDocumentHasEveryCode(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromFile("../../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	problem := doc.Components.Responses["Problem"].Value.Content["application/problem+json"].Schema.Value
	listed, ok := problem.Properties["code"].Value.Extensions["x-extensible-enum"].([]any)
	if !ok {
		t.Fatal("the document lists no codes")
	}
	documented := make([]string, len(listed))
	for i, code := range listed {
		documented[i], _ = code.(string)
	}
	if declared := domain.Codes(); !slices.Equal(documented, declared) {
		t.Errorf("documented:\n%s\ndeclared:\n%s", strings.Join(documented, "\n"), strings.Join(declared, "\n"))
	}
}
