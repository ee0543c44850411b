package domain

import "testing"

func TestACodeIsDeclaredOnce(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a second rule took the code of another")
		}
	}()
	Refuse(Conflict, ErrInvalid.Code)
}
