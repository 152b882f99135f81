"""The one runtime that every Linli service stands on. It knows no service."""
