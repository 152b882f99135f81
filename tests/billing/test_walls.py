"""Who may not: other communities, accounts without the permission, communities without the module, and bad input."""

from collections.abc import Callable

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message

from linli.billing.v1 import billing_pb2 as pb
from servicekit.errors import Denied, Invalid, NotFound, Unauthenticated
from servicekit.identifiers import new_id
from tests.billing.world import API, STAFF, World, refusal
from tests.support import principal

# How each method asks for something, given a charge and a payment; the test fails when a method is missing.
_REQUESTS: dict[str, Callable[[str, str], Message]] = {
    "GetCharge": lambda charge, _payment: pb.GetChargeRequest(charge_id=charge),
    "ListCharges": lambda _charge, _payment: pb.ListChargesRequest(),
    "CreatePayment": lambda charge, _payment: pb.CreatePaymentRequest(charge_id=charge, provider="sandbox"),
    "GetPayment": lambda _charge, payment: pb.GetPaymentRequest(payment_id=payment),
    "ListMyPayments": lambda _charge, _payment: pb.ListMyPaymentsRequest(),
    "ListPayments": lambda _charge, _payment: pb.ListPaymentsRequest(),
    "RefundPayment": lambda _charge, payment: pb.RefundPaymentRequest(payment_id=payment, amount_fen=1, reason="退款"),
    "ListRefunds": lambda _charge, payment: pb.ListRefundsRequest(payment_id=payment),
    "ReceiveNotification": lambda _charge, _payment: pb.ReceiveNotificationRequest(provider="sandbox", notification=HttpBody(data=b"{}")),
    "Reconcile": lambda _charge, _payment: pb.ReconcileRequest(provider="sandbox", day="2026-01-05"),
    "ListReconciliations": lambda _charge, _payment: pb.ListReconciliationsRequest(),
}
_PERMISSIONS = {
    "ListCharges": "billing.charges.read",
    "ListPayments": "billing.payments.read",
    "RefundPayment": "billing.refunds.create",
    "ListRefunds": "billing.payments.read",
    "Reconcile": "billing.reconciliations.run",
    "ListReconciliations": "billing.reconciliations.read",
}


def test_every_method_is_asked() -> None:
    assert set(_REQUESTS) == {method.name for method in pb.DESCRIPTOR.services_by_name["BillingService"].methods}


async def test_another_communitys_staff_see_nothing_and_change_nothing(billing: World) -> None:
    charge_id = await billing.raise_charge()
    payer = new_id()
    payment = await billing.create_payment(charge_id, billing.payer(payer))
    await billing.pay(payment)
    await billing.payment_where(payment.payment_id, pb.PAYMENT_STATE_SUCCEEDED)
    await billing.refund(payment.payment_id, 50)
    await billing.reconcile("2026-01-05")
    # The same account in another community, with every permission there.
    foreigner = billing.running.caller(principal(*STAFF, community_id=new_id(), account_id=payer))
    for method, request in _REQUESTS.items():
        if method == "ReceiveNotification":
            continue
        try:
            answer = await foreigner.call(f"{API}/{method}", request(charge_id, payment.payment_id))
        except NotFound:
            continue
        if method == "Reconcile":
            assert (answer.matched, list(answer.differences)) == (0, [])
        else:
            assert not answer.ListFields() or method == "ListReconciliations", (method, answer)
        if method == "ListReconciliations":
            assert [r.matched for r in answer.reconciliations] == [0]
    assert len(await billing.refunds(payment.payment_id)) == 1
    assert len(await billing.payments()) == 1


async def test_a_method_is_denied_to_who_lacks_its_permission_and_to_strangers(billing: World) -> None:
    others = {permission: billing.staff(*(set(STAFF) - {permission})) for permission in set(_PERMISSIONS.values())}
    for method, request in _REQUESTS.items():
        asked = request(str(new_id()), str(new_id()))
        if method != "ReceiveNotification":
            assert isinstance(await refusal(billing.running.caller().call(f"{API}/{method}", asked)), Unauthenticated), method
        if method in _PERMISSIONS:
            error = await refusal(others[_PERMISSIONS[method]].call(f"{API}/{method}", asked))
            assert (type(error), error.details.get("permission")) == (Denied, _PERMISSIONS[method]), method


async def test_a_community_without_billing_has_none(billing: World) -> None:
    resident = billing.running.caller(principal(*STAFF, community_id=billing.community_id, modules=["parking"]))
    error = await refusal(resident.call(f"{API}/ListMyPayments", pb.ListMyPaymentsRequest()))
    assert error.code == "auth.module_off"


async def test_bad_input_is_invalid_and_names_its_field(billing: World) -> None:
    somewhere = str(new_id())
    bad: list[tuple[str, Message]] = [
        ("GetCharge", pb.GetChargeRequest(charge_id="stay 7")),
        ("CreatePayment", pb.CreatePaymentRequest(charge_id=somewhere, provider="Sand box")),
        ("RefundPayment", pb.RefundPaymentRequest(payment_id=somewhere, amount_fen=0, reason="退款")),
        ("RefundPayment", pb.RefundPaymentRequest(payment_id=somewhere, amount_fen=-5, reason="退款")),
        ("RefundPayment", pb.RefundPaymentRequest(payment_id=somewhere, amount_fen=5, reason="退\0款")),
        ("ListCharges", pb.ListChargesRequest(origin_id="a\0b")),
        ("ListCharges", pb.ListChargesRequest(page_token="next please")),
        ("ListCharges", pb.ListChargesRequest(page_size=1000)),
        ("ListPayments", pb.ListPaymentsRequest(page_token="bnVsbA")),
        ("ListReconciliations", pb.ListReconciliationsRequest(page_token="MQ")),
        ("Reconcile", pb.ReconcileRequest(provider="sandbox", day="2026-13-01")),
    ]
    for method, request in bad:
        error = await refusal(billing.staff().call(f"{API}/{method}", request))
        assert isinstance(error, Invalid), (method, error)
        assert error.fields, (method, error)
