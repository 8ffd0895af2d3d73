// A stub of published signatures, for compiling alone: it never runs.
package android.text;

public interface Editable extends CharSequence {}
